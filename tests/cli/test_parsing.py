from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from openvla.cli.parsing import parse
from openvla.errors import UsageError


@dataclass(frozen=True)
class Options:
    """For tests."""

    image: Path
    """The picture."""
    text: str
    """What to do."""
    method: Literal["full", "lora"] = "full"
    """How."""
    tasks: tuple[str, ...] = ()
    """Which."""


def test_a_line_becomes_options() -> None:
    line = ["--image", "a.png", "--text", "open it", "--tasks", "a", "b", "--method", "lora"]
    assert parse(Options, "x", line) == Options(Path("a.png"), "open it", "lora", ("a", "b"))


def test_help_is_printed_and_gives_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Options, "openvla x", ["--help"]) is None
    assert "The picture." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ([], r"^Missing from openvla x: --image PATH --text STR; `openvla x --help` lists the options$"),
        (["--image", "a", "--text", "b", "--methd", "full"], r"^Unrecognized options: --methd, full; `openvla x"),
        (
            ["--image", "a", "--text", "b", "--method", "half"],
            r"^invalid choice 'half' for argument '--method'\. Expected one of \('full', 'lora'\); `openvla x --help`",
        ),
    ],
)
def test_a_wrong_line_is_one_sentence(line: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse(Options, "openvla x", line)
    assert capsys.readouterr() == ("", "")

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from openvla.cli.main import main
from openvla.cli.output import Result
from openvla.cli.verbs import VERBS, Verb
from openvla.errors import CheckpointError


@dataclass(frozen=True)
class Options:
    """A verb for tests."""

    size: int = 3
    """How large."""
    json: bool = False
    """JSON alone."""


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Options], Result | None]], None]:
    """Install a verb `play` that does what a test wants."""

    def install(run: Callable[[Options], Result | None]) -> None:
        module = ModuleType("openvla.cli.play")
        module.Options, module.run = Options, run
        monkeypatch.setitem(sys.modules, "openvla.cli.play", module)
        monkeypatch.setitem(VERBS, "play", Verb("play", "play", "openvla.cli.play"))

    return install


def fail_with(error: BaseException) -> Callable[[Options], Result | None]:
    def run(options: Options) -> Result | None:
        raise error

    return run


def test_text_is_printed_without_json(play, capsys) -> None:
    play(lambda options: Result({"size": options.size}, f"size {options.size}"))
    assert main(["play", "--size", "5"]) == 0
    assert capsys.readouterr().out == "size 5\n"


def test_json_stands_alone_on_standard_output_whatever_the_work_prints(play, capsys) -> None:
    def run(options: Options) -> Result:
        print("step 1 of 1")
        return Result({"size": options.size}, "")

    play(run)
    assert main(["play", "--json"]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out) == {"size": 3}
    assert streams.err == "step 1 of 1\n"


def test_libraries_and_child_processes_do_not_reach_standard_output_either(play, capfd) -> None:
    def run(options: Options) -> Result:
        os.write(1, b"library\n")
        subprocess.run(["echo", "child"], check=True)
        return Result({"size": options.size}, "")

    play(run)
    assert main(["play", "--json"]) == 0
    assert capfd.readouterr() == ('{"size": 3}\n', "library\nchild\n")


def test_a_verb_may_print_nothing(play, capsys) -> None:
    play(lambda options: None)
    assert main(["play"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (CheckpointError("no config.json in x;\n  give a checkpoint"), "no config.json in x; give a checkpoint"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.png"), "x.png: no such file; check the path"),
        (PermissionError(errno.EACCES, "Permission denied", "/r"), "/r: permission denied; check the path"),
        (OSError(errno.ENOSPC, "No space left", "/d"), "the disk is full at /d; free some space and run again"),
        (OSError(errno.ENOSPC, "No space left"), "the disk is full; free some space and run again"),
    ],
)
def test_what_a_user_can_cause_is_one_sentence_and_exit_code_2(play, capsys, error, sentence) -> None:
    play(fail_with(error))
    assert main(["play"]) == 2
    assert capsys.readouterr() == ("", f"openvla: {sentence}\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), OSError(errno.EBADF, "Bad file descriptor")])
def test_a_defect_keeps_its_traceback(play, error) -> None:
    play(fail_with(error))
    with pytest.raises(type(error), match=str(error.args[-1])):
        main(["play"])


def test_an_interrupt_is_quiet_and_130(play, capsys) -> None:
    play(fail_with(KeyboardInterrupt()))
    assert main(["play"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "a verb is missing; `openvla --help` lists them"),
        ("predit", "unknown verb 'predit'; did you mean 'predict'? (`openvla --help` lists the verbs)"),
        ("data", "`openvla data` needs one more word: generate, index, convert, doctor, inspect, stats"),
        ("data stat", "unknown verb 'data stat'; did you mean 'data stats'"),
        ("play --size", "Missing"),
        ("play --size big", "Error parsing --size"),
        ("play --colour red", "Unrecognized options: --colour, red; `openvla play --help` lists the options"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(play, capsys, line, sentence) -> None:
    play(lambda options: None)
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sentence in err


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_verb_on_standard_output(capsys, flag) -> None:
    assert main([flag]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb.name}" in out and verb.summary in out for verb in VERBS.values())


def test_the_help_of_a_group_lists_its_verbs_only(capsys) -> None:
    assert main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert "data stats" in out
    assert "predict" not in out


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_option_of_every_verb_is_explained(capsys, monkeypatch, verb) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*verb.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: openvla {verb} ")
    unexplained = [line for line in out.splitlines() if line.startswith("│ --") and "    " not in line.strip("│ ")]
    assert "Unknown" not in out
    assert not [line for line in unexplained if line.rstrip("│ ").endswith("(required)") and line.count(" ") < 4]


def test_the_version_is_the_packages(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("openvla 0.")


def test_the_console_script_runs(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("openvla")
    done = subprocess.run([script, "predit"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("openvla: unknown verb")


@pytest.mark.parametrize("line", ["--help", "predict --help", "--version"])
def test_a_reader_that_leaves_early_is_no_error(line: str) -> None:
    script = Path(sys.executable).with_name("openvla")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([script, *line.split()], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")

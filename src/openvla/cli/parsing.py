"""From a command line to a frozen dataclass of options; a usage error becomes one sentence.

tyro reads the dataclass: field names are flags, attribute docstrings are their help. It reports a
wrong line as a drawn box on standard error followed by exit code 2; `parse` catches both and raises
`UsageError` with the words of the box.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TypeVar

from openvla.errors import UsageError

T = TypeVar("T")

_HELP_INDENT = 8
"""tyro indents the help text of a flag that it names in an error by this much; the flag itself by less."""


def parse(options: type[T], prog: str, arguments: Sequence[str], default: T | None = None) -> T | None:
    """Build `options` from `arguments`, starting from `default` where there is one.

    With a default a flag may be taken back (`--no-augment`). None after help was printed. Raises UsageError for a line
    that does not fit.
    """
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            if default is not None:
                return tyro.cli(options, prog=prog, args=list(arguments), default=default)
            return tyro.cli(options, prog=prog, args=list(arguments), config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            return None
        sentence = _unbox(complaint.getvalue())
        raise UsageError(f"{sentence}; `{prog} --help` lists the options") from None


def _unbox(drawn: str) -> str:
    r"""The words of a drawn box, without its title, its footer and the help texts in it, as one line.

    Every line has two characters of frame on its left, drawn or (where the output is not UTF-8) blank.

    >>> _unbox("╭─ Missing ─╮\n│ Missing:  │\n│     --a X │\n│ ───────── │\n│ For help  │\n╰───────────╯")
    'Missing: --a X'
    >>> _unbox(" Missing\n ---------\n  Missing:\n      --a X\n  -------\n  For help\n")
    'Missing: --a X'
    """
    words: list[str] = []
    for line in drawn.splitlines()[1:]:
        content = line[2:].rstrip("│ ")
        if content.strip("─-╯ "):
            if len(content) - len(content.lstrip()) < _HELP_INDENT:
                words.append(content.strip())
        elif words:
            break
    return " ".join(words).replace(" .", ".").rstrip(".")

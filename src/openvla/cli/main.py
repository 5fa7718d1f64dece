"""The console script `openvla`: choose a verb, parse its options, run it, print its result.

Nothing heavy is imported before the verb is known: `openvla --help` touches neither tyro nor numpy
nor torch, `openvla VERB --help` no torch. While a verb works, whatever it prints goes to standard
error; standard output carries the result alone, so that `--json` can be piped.

Exit codes: 0 done; 2 bad usage or bad input, one sentence on standard error; 130 interrupted; 143
ended by SIGTERM, with the training saved. Any other failure is a defect of this package and shows its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Generator, Sequence
from importlib import metadata
from typing import Any

from openvla.cli.parsing import parse
from openvla.cli.verbs import Verb, find_verb, help_wanted, overview
from openvla.errors import OpenVLAError

PATH_ERRORS = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EROFS,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
"""What can be wrong with a path that the user named. A full disk (ENOSPC) is apart: it may come without a path."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _run(arguments)
        sys.stdout.flush()  # here, where a reader that left is noticed, and not at exit
        return 0
    except OpenVLAError as error:
        return _complain(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output left (`openvla ... | head`); without this Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        return _complain(sentence)
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["--version"]:
        print(f"openvla {metadata.version('openvla')}")
        return
    group = help_wanted(arguments)
    if group is not None:
        print(overview(group))
        return
    verb, rest = find_verb(arguments)
    module, options = parse_verb(verb, rest)
    if options is None:
        return
    with quiet_standard_output():
        result = module.run(options)
    if result is not None:
        print(result.as_json() if getattr(options, "json", False) else result.text)
        if result.failure is not None:
            raise OpenVLAError(result.failure)


@contextlib.contextmanager
def quiet_standard_output() -> Generator[None]:
    """Send what is printed to standard error: by Python, by libraries in C, and by worker processes begun meanwhile."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def parse_verb(verb: Verb, arguments: Sequence[str]) -> tuple[Any, Any]:
    """Import a verb's module and parse its options, which it may do itself; None where help was printed instead."""
    module, prog = importlib.import_module(verb.module), f"openvla {verb.name}"
    own = getattr(module, "parse", None)
    return module, parse(module.Options, prog, arguments) if own is None else own(prog, arguments)


def _complain(sentence: str, code: int = 2) -> int:
    print(f"openvla: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def _sentence(error: OSError) -> str | None:
    """What to tell about a path the user named; None where the error is not of that kind."""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{f' at {error.filename}' if error.filename else ''}; free some space and run again"
    if error.errno not in PATH_ERRORS or error.filename is None:
        return None
    return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}; check the path"

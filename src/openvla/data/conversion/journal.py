"""A directory that is written over several runs: what is done is noted, so that a killed run goes on where it was.

    .NAME.partial/journal.json    what has been committed, rewritten whole after every part
    .NAME.partial/data/           becomes NAME at the end

The journal carries a fingerprint of what is being made; work of another fingerprint is begun anew. A run that fails on
its input leaves nothing; one that is interrupted or killed leaves the partial directory for the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from openvla.errors import DataError, OpenVLAError
from openvla.files import made_directory, publish, read_json, sync, write_text

JOURNAL = "journal.json"


class Journal:
    """The work on one target. state: what `commit` noted last, None at the beginning."""

    def __init__(self, target: Path, fingerprint: str) -> None:
        self.target = target
        self._home = target.with_name(f".{target.name}.partial")
        self._fingerprint = fingerprint
        self._files: list[str] = []
        self._sealed = False
        self.place = self._home / "data"
        self.state: Any = None

    def begin(self) -> None:
        """Take up what an earlier run left, or begin anew; uncommitted files vanish, unless the work is sealed."""
        path = self._home / JOURNAL
        with contextlib.suppress(DataError):  # unreadable: begun anew
            raw: Any = read_json(path, DataError, "it is begun anew")
            if isinstance(raw, dict) and raw.get("fingerprint") == self._fingerprint:
                self.state, self._files, self._sealed = raw["state"], raw["files"], raw["sealed"]
        if self.state is None:
            shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(exist_ok=True)
        kept = {self.place / name for name in self._files}
        for each in self.place.rglob("*"):
            if each.is_file() and each not in kept and not self._sealed:
                each.unlink()

    def commit(self, state: Any, files: Iterable[Path], sealed: bool = False) -> None:
        """Note that `files` are complete and that the work goes on from `state`.

        sealed: all parts are there; what is done from here on can be done again over what is there.
        """
        for path in files:
            sync(path)
            self._files.append(str(path.relative_to(self.place)))
        content = {"fingerprint": self._fingerprint, "state": state, "files": self._files, "sealed": sealed}
        write_text(self._home / JOURNAL, json.dumps(content), DataError)
        self.state = state

    def finish(self) -> None:
        """Sync everything and give the directory its name."""
        publish(self.place, self.target)

    def remove(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._home, ignore_errors=True)


@contextlib.contextmanager
def journal(target: Path, fingerprint: str) -> Generator[Journal]:
    """Work on `target`, alone; it becomes `target` when the block ends well.

    Raises DataError where `target` exists, another process works on it, or the disk refuses.
    """
    if target.exists():
        raise DataError(f"{target} exists already; remove it, or choose another directory")
    work = Journal(target, fingerprint)
    home = work.place.parent
    with made_directory(target.parent, DataError):
        try:
            home.mkdir(exist_ok=True)
            with _locked(home):
                try:
                    work.begin()
                    yield work
                    work.finish()
                except OpenVLAError:
                    work.remove()
                    raise
                work.remove()
        except OSError as cause:
            raise DataError(f"cannot write {target}: {cause.strerror or cause}; choose another place") from cause


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise DataError(f"another process is writing {folder}; wait for it, or choose another directory") from cause
        yield
    finally:
        os.close(handle)

"""Files and directories that appear whole or not at all: written beside the target, synced to disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from openvla.errors import OpenVLAError


@contextlib.contextmanager
def new_directory(target: Path, error: type[OpenVLAError]) -> Generator[Path]:
    """A temporary directory beside `target`; it becomes `target` on success and vanishes on any exception.

    Parents are made as needed, and removed again on failure. Whatever the block wrote is synced before the rename.
    Raises `error` where `target` exists or the disk refuses.
    """
    if target.exists():
        raise error(f"{target} exists already; remove it, or choose another directory")
    place = _beside(target)
    made = [parent for parent in (target.parent, *target.parent.parents) if not parent.exists()]
    try:
        place.mkdir(parents=True)
        yield place
        for path in (*place.rglob("*"), place):
            _sync(path)
        place.rename(target)
        _sync(target.parent)
    except BaseException as cause:
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()
        if isinstance(cause, OSError):
            raise error(f"cannot write {target}: {cause.strerror or cause}") from cause
        raise


@contextlib.contextmanager
def new_file(path: Path) -> Generator[BinaryIO]:
    """A new file, open for writing bytes; on disk when the block ends. Raises OSError, as for an existing file."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str, error: type[OpenVLAError]) -> None:
    """Write or replace a UTF-8 file in one step. Raises `error` where the disk refuses."""
    place = _beside(path)
    try:
        with new_file(place) as file:
            file.write(text.encode())
        place.replace(path)
        _sync(path.parent)
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}; choose another place") from cause
    finally:
        with contextlib.suppress(OSError):
            place.unlink()


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Files and directories that appear whole or not at all: written beside the target, synced to disk, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from openvla.errors import OpenVLAError


def cache_home() -> Path:
    """Where indexes and other things that can be made again are kept: $OPENVLA_CACHE, or in the XDG cache directory."""
    own = os.environ.get("OPENVLA_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openvla"


@contextlib.contextmanager
def new_directory(target: Path, error: type[OpenVLAError]) -> Generator[Path]:
    """A temporary directory beside `target`; it becomes `target` on success and vanishes on any exception.

    Parents are made as needed, and removed again on failure. Whatever the block wrote is synced before the rename.
    Raises `error` where `target` exists or the disk refuses.
    """
    if target.exists():
        raise error(f"{target} exists already; remove it, or choose another directory")
    place, absent = _beside(target), _absent(target.parent)
    try:
        place.mkdir(parents=True)
        yield place
        publish(place, target)
    except BaseException as cause:
        shutil.rmtree(place, ignore_errors=True)
        _remove_empty(absent)
        if isinstance(cause, OSError):
            raise error(f"cannot write {target}: {cause.strerror or cause}") from cause
        raise


@contextlib.contextmanager
def made_directory(path: Path, error: type[OpenVLAError]) -> Generator[None]:
    """Make `path` and its parents, for a block that may fill it; what is still empty on any exception vanishes again.

    Raises `error` where the disk refuses. A directory that exists is fine, and stays.
    """
    absent = _absent(path)
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise error(f"cannot create {path}: {cause.strerror or cause}; choose another directory") from cause
        yield
    except BaseException:
        _remove_empty(absent)
        raise


def publish(place: Path, target: Path) -> None:
    """Sync all that lies in `place`, then give it its name `target`. Raises OSError."""
    for path in (*place.rglob("*"), place):
        sync(path)
    place.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Return when a file's content, or a directory's list of names, is on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_file(path: Path) -> Generator[BinaryIO]:
    """A new file, open for writing bytes; on disk when the block ends. Raises OSError, as for an existing file."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path, error: type[OpenVLAError], remedy: str) -> object:
    """The document in a UTF-8 file. Raises `error`, ending with `remedy`, where it cannot be read or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise error(f"cannot read {path}: {cause.strerror or cause}; {remedy}") from cause
    except (ValueError, RecursionError) as cause:
        raise error(f"{path} is not JSON ({cause}); {remedy}") from cause


def write_text(path: Path, text: str, error: type[OpenVLAError]) -> None:
    """Write or replace a UTF-8 file in one step. Raises `error` where the disk refuses."""
    write_bytes(path, text.encode(), error)


def write_bytes(path: Path, content: bytes, error: type[OpenVLAError]) -> None:
    """Write or replace a file in one step. Raises `error` where the disk refuses."""
    place = _beside(path)
    try:
        with new_file(place) as file:
            file.write(content)
        place.replace(path)
        sync(path.parent)
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}; choose another place") from cause
    finally:
        with contextlib.suppress(OSError):
            place.unlink()


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


def _absent(path: Path) -> list[Path]:
    """`path` and those of its parents that do not exist, innermost first."""
    return [each for each in (path, *path.parents) if not each.exists()]


def _remove_empty(directories: list[Path]) -> None:
    """Remove those of `directories`, innermost first, that exist and hold nothing."""
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()

"""An RLDS copy, in the user's cache, of a data set in another format: what frame-level random access needs.

An RLDS data set stands for itself. Any other is converted once (`convert`, with its check) and again when a file of it
changes; the conversion resumes where it was interrupted.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from openvla.data.conversion.convert import Conversion, convert
from openvla.data.formats.detect import detect, open_source
from openvla.errors import UsageError
from openvla.files import cache_home

log = logging.getLogger(__name__)


def rlds_of(path: str | Path) -> Path:
    """The RLDS data set at `path`, or the cached copy of what is there. Raises DataError as `convert`."""
    place = Path(path)
    kind = detect(place)
    if kind == "rlds":
        return place
    if kind == "iterator":
        raise UsageError(f"{path} makes its episodes anew each time; write them with `openvla data convert` first")
    name = "".join(c if c.isalnum() else "_" for c in place.absolute().stem)
    home = cache_home() / "converted" / f"{name}-{_fingerprint(place)}"
    if not home.exists():
        log.warning("%s is no RLDS data set; making a copy for training at %s", place, home)
        convert(open_source(place, kind), home / "1.0.0", Conversion("rlds"))
    return home


def _fingerprint(path: Path) -> str:
    """Changes when a file at or below `path` does."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    stamps = [f"{each.absolute()} {each.stat().st_size} {each.stat().st_mtime_ns}" for each in files]
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]

"""ALOHA's HDF5: one episode a file, two arms side by side in every vector.

    action (T, A)                        joint targets of both arms, A = 14: six joints and a gripper, twice
    observations/qpos (T, P), qvel, effort
    observations/images/CAMERA           pixels uint8 (T, H, W, 3), or JPEG bytes uint8 (T, L) filled up with zeros
    compress_len (cameras, T)            how long each JPEG is, where there are any

A camera is called "observation|CAMERA" here, `observations/NAME` "observation|NAME", other arrays with one row per step
keep their names. The action is taken as it is. JPEG bytes are passed on as they lie there; which row of `compress_len`
is whose is not recorded, so the zeros behind the end marker tell the length, and the table must know it. The words are
looked for in the attributes and texts language_instruction, lang, instruction, language_raw, task; without any, steps
are unlabelled (""). A directory is read as all its HDF5 files in order of the numbers in their names.

Shapes: T steps, A action and P state dimensions, H x W pixels.
Source: Zhao et al. 2023 (arXiv:2304.13705), its recorder; Fu et al. 2024 (arXiv:2401.02117) for compressed images.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from openvla.data.bad import BadData
from openvla.data.episode import Episode, describe
from openvla.data.formats.hdf5 import (
    FETCH,
    SAID,
    by_number,
    check_alike,
    hdf5_files,
    node_of,
    reading,
    text_of,
    values_of,
)
from openvla.data.formats.lazy import LazyImages
from openvla.data.formats.source import ACTION, INSTRUCTION, Source
from openvla.data.images.headers import image_size
from openvla.data.tfds.features import Features, Image, Node, Text
from openvla.data.tfds.fields import objects
from openvla.errors import DataError

OBSERVATIONS, IMAGES, LENGTHS = "observations", "images", "compress_len"
WORDS = (*SAID, "language_raw", "task")


def is_aloha(path: Path) -> bool:
    """Whether the first readable HDF5 file at or in `path` holds an episode as ALOHA records it. Raises DataError."""
    for each in hdf5_files(path):
        with contextlib.suppress(DataError), reading(each) as file:
            return "data" not in file and OBSERVATIONS in file
    return False


class AlohaSource(Source):
    """The episodes of one split, "train": one file each."""

    format = "hdf5"

    def __init__(self, path: Path) -> None:
        """path: a file, or a directory of files. Raises DataError where there is no HDF5 file."""
        self.files = sorted(hdf5_files(path), key=lambda file: by_number(file.name))
        place = path.absolute()
        super().__init__(path, re.sub(r"\W", "_", place.name if place.is_dir() else place.stem))

    def _count(self) -> Mapping[str, int]:
        return {"train": len(self.files)}

    def _describe(self) -> Features:
        """As the first file that can be read."""
        bad = BadData("skip", quiet=True)
        nodes = next(bad.good(partial(_read_nodes, path) for path in self.files), None)
        if nodes is None:
            raise DataError(bad.skipped[0])
        return describe(nodes | {INSTRUCTION: Text()}, {"file": Text()})

    def load(self, split: str, number: int) -> Episode:
        """Episode `number`. Raises DataError naming file and array."""
        del split
        path = self.files[number]
        source = str(path)
        with reading(path) as file:
            arrays = _arrays(file, path)
            check_alike(_nodes(arrays, path), self.features, source)
            lengths = _lengths(file, path, len(arrays[ACTION]))
            steps = {name: _values(path, name, array, lengths) for name, array in arrays.items()}
            words = _instruction(file)
        steps[INSTRUCTION] = objects([words] * len(arrays[ACTION]))
        return Episode(steps, {"file": path.name}, source, self.features)


def _read_nodes(path: Path) -> dict[str, Node]:
    with reading(path) as file:
        return _nodes(_arrays(file, path), path)


def _nodes(arrays: Mapping[str, Any], path: Path) -> dict[str, Node]:
    """How the arrays of one file are described."""
    return {name: _node(array, f"{path}: {name!r}") for name, array in arrays.items()}


def _arrays(file: Any, path: Path) -> dict[str, Any]:
    """The arrays of one episode by their names here, not read yet. Raises DataError for missing and short ones."""
    seen = file.get(OBSERVATIONS, {})
    for name in (ACTION, f"{OBSERVATIONS}/qpos", f"{OBSERVATIONS}/{IMAGES}"):
        if name not in file:
            raise DataError(
                f"{path} has no {name!r}, it has {', '.join([*file, *(f'{OBSERVATIONS}/{x}' for x in seen)])}; record "
                "it, or drop the file"
            )
    found = {name: item for name, item in file.items() if name not in (OBSERVATIONS, LENGTHS)}
    found |= {f"observation|{name}": item for name, item in seen.items() if name != IMAGES}
    if not hasattr(seen[IMAGES], "items"):
        raise DataError(f"{path}: '{OBSERVATIONS}/{IMAGES}' is no group of cameras; {FETCH}")
    found |= {f"observation|{name}": item for name, item in seen[IMAGES].items()}
    arrays = {name: item for name, item in found.items() if _has_steps(item)}
    if ACTION not in arrays or len(arrays[ACTION].shape) != 2:
        shape = getattr(file[ACTION], "shape", None)
        raise DataError(f"{path}: 'action' has shape {shape}, not one row of numbers per step; {FETCH}")
    count = len(arrays[ACTION])
    for name, item in arrays.items():
        if len(item) != count:
            raise DataError(f"{path}: {name!r} has {len(item)} steps where 'action' has {count}; drop the file")
    return arrays


def _has_steps(item: Any) -> bool:
    return bool(getattr(item, "shape", ())) and item.dtype.kind in "biuf"


def _is_jpeg(array: Any) -> bool:
    return array.dtype == np.uint8 and len(array.shape) == 2 and array.name.startswith(f"/{OBSERVATIONS}/{IMAGES}/")


def _node(array: Any, source: str) -> Node:
    if not (_is_jpeg(array) and len(array)):
        return node_of(array)
    return Image((*image_size(_trimmed(array[0]), f"{source} at step 0"), 3), "jpeg")


def _trimmed(row: Any) -> bytes:
    """The bytes of one JPEG without the zeros behind it; its last byte is that of the end marker, which is none."""
    return row.tobytes().rstrip(b"\0")


def _lengths(file: Any, path: Path, count: int) -> Any:
    """compress_len as int64 (cameras, T), or None where there is no such table."""
    if LENGTHS not in file:
        return None
    lengths = np.asarray(file[LENGTHS][()])
    if lengths.ndim != 2 or lengths.shape[1] != count:
        raise DataError(f"{path}: 'compress_len' has shape {lengths.shape}, not (cameras, {count} steps); {FETCH}")
    return lengths.astype(np.int64)


def _values(path: Path, name: str, array: Any, lengths: Any) -> Any:
    source = f"{path}: {name!r}"
    if not _is_jpeg(array):
        return values_of(path, array, source)
    place = array.name

    def fetch(step: int) -> bytes:
        with reading(path) as file:
            data = _trimmed(file[place][step])
        if lengths is not None and len(data) not in lengths[:, step]:
            raise DataError(
                f"{source} at step {step} is {len(data)} bytes long, 'compress_len' knows {lengths[:, step].tolist()}; "
                f"the image is damaged, {FETCH}"
            )
        return data

    return LazyImages(fetch, np.arange(len(array)), source)


def _instruction(file: Any) -> str:
    for name in WORDS:
        held: Any = file.attrs.get(name)
        if held is None and name in file and getattr(file[name], "shape", None) == ():
            held = file[name][()]
        if text_of(held).strip():
            return text_of(held).strip()
    return ""

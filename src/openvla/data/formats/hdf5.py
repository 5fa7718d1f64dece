"""HDF5 demonstrations as robomimic and LIBERO write them: one group per demonstration below `data`.

    data/demo_0/actions (T, A), data/demo_0/obs/NAME (T, ...), rewards, dones, states, ...; attributes on `data`

`obs/NAME` is called "observation|NAME" here and `actions` "action"; `next_obs` repeats `obs` and is left out, other
arrays with one row per step keep their names. uint8 (T, H, W, 3) are images, as they lie in the file: LIBERO's are
upside down. The instruction is looked for in the attributes `ep_meta` of the demonstration and `problem_info` of
`data` (both JSON) and in plain ones (language_instruction, lang, instruction); without any, steps are unlabelled ("").
`mask/train` and `mask/valid` name demonstrations; without them all belong to "train". A directory is read as all its
HDF5 files in order of name.

Shapes: T steps, A action dimensions, H x W pixels.
Source: robomimic v0.1 to v0.5 data sets; LIBERO (Liu et al. 2023, arXiv:2306.03310).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Generator, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.data.episode import Episode, describe
from openvla.data.formats.lazy import LazyImages
from openvla.data.formats.source import ACTION, INSTRUCTION, Source
from openvla.data.tfds.features import SEPARATOR, Features, Image, Node, Tensor, Text
from openvla.data.tfds.fields import objects
from openvla.errors import DataError, require

MAGIC = b"\x89HDF\r\n\x1a\n"
RENAMED = {"actions": ACTION, "rewards": "reward"}
SAID = ("language_instruction", "lang", "instruction")
METADATA: dict[str, Node] = {"file": Text(), "demonstration": Text(), "env_args": Text()}
FETCH = "fetch the file again, or drop it"


class Hdf5Source(Source):
    """The demonstrations of one HDF5 file, or of all in one directory."""

    format = "hdf5"

    def __init__(self, path: Path) -> None:
        """Raises DataError for a file that is damaged or has no group `data` with demonstrations."""
        self.files = hdf5_files(path)
        super().__init__(path, re.sub(r"\W", "_", path.absolute().stem))
        with reading(self.files[0]) as file:
            args = _json(file["data"].attrs.get("env_args")) if "data" in file else {}
        kwargs = args.get("env_kwargs")
        rate = cast("dict[str, Any]", kwargs).get("control_freq", 0.0) if isinstance(kwargs, dict) else 0.0
        self.control_hz = float(rate) if isinstance(rate, int | float) else 0.0

    def _count(self) -> Mapping[str, int]:
        return {name: len(demos) for name, demos in self._demos.items()}

    @cached_property
    def _demos(self) -> dict[str, list[tuple[Path, str]]]:
        """Split -> (file, name of the demonstration), in order."""
        table: dict[str, list[tuple[Path, str]]] = {}
        for path in self.files:
            with reading(path) as file:
                for split, names in _split_names(file, path).items():
                    table.setdefault(split, []).extend((path, name) for name in names)
        return table

    def _describe(self) -> Features:
        path, demo = next(iter(self._demos.values()))[0]
        with reading(path) as file:
            arrays = _arrays(file["data"][demo], f"{path}, data/{demo}")
            return describe({name: node_of(array) for name, array in arrays.items()} | {INSTRUCTION: Text()}, METADATA)

    def load(self, split: str, number: int) -> Episode:
        """Episode `number` of `split`. Raises DataError naming file, demonstration and array."""
        path, demo = self._demos[split][number]
        source = f"{path}, data/{demo}"
        with reading(path) as file:
            group = file["data"][demo]
            arrays = _arrays(group, source)
            _check(arrays, self.features, group, source)
            steps = {name: values_of(path, array, f"{source}: {name!r}") for name, array in arrays.items()}
            words = _instruction(group, file)
            env = text_of(file["data"].attrs.get("env_args", ""))
        steps[INSTRUCTION] = objects([words] * len(next(iter(arrays.values()))))
        return Episode(steps, {"file": path.name, "demonstration": demo, "env_args": env}, source, self.features)


def hdf5_files(path: Path) -> list[Path]:
    """`path` itself, or the HDF5 files in it, told by their first bytes. Raises DataError where there are none."""
    paths = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    found = [each for each in paths if is_hdf5(each)]
    if not found:
        raise DataError(f"{path} holds no HDF5 file; give a file or a directory of files with a group `data`")
    return found


def is_hdf5(path: Path) -> bool:
    """Whether a file starts as HDF5 files do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def by_number(name: str) -> list[str | int]:
    """The key that sorts `name_2` before `name_10`: text and numbers in turns."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]


@contextlib.contextmanager
def reading(path: Path) -> Generator[Any]:
    """The file at `path`, open; what h5py raises becomes DataError."""
    try:
        yield _open(path, os.getpid(), path.stat().st_mtime_ns)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is no readable HDF5 file of demonstrations: {reason}; {FETCH}") from error


@lru_cache(maxsize=4)
def _open(path: Path, process: int, changed: int) -> Any:
    del process, changed  # a child process must not share the handle of its parent; a new file is a new handle
    return require("h5py", "data").File(path, "r")


def _split_names(file: Any, path: Path) -> dict[str, list[str]]:
    if "data" not in file or not len(file["data"]):
        raise DataError(
            f"{path} has no group `data` with demonstrations, it has {', '.join(file) or 'nothing'}; it was not "
            "written by robomimic or LIBERO"
        )
    demos = sorted(file["data"], key=by_number)
    masks = {name: set(map(text_of, file["mask"][name][()])) for name in file.get("mask", ())}
    if not {"train", "valid"} <= masks.keys():
        return {"train": demos}
    for name in ("train", "valid"):
        for demo in sorted(masks[name] - set(demos)):
            raise DataError(f"{path}: mask/{name} names {demo!r}, which `data` does not hold; {FETCH}")
    return {split: [x for x in demos if x in masks[mask]] for split, mask in (("train", "train"), ("val", "valid"))}


def _arrays(group: Any, source: str) -> dict[str, Any]:
    """The arrays of one demonstration with one row per step, by their names here, not read yet."""
    if "actions" not in group:
        raise DataError(f"{source} lacks `actions`, it has {', '.join(group) or 'nothing'}; drop the demonstration")
    found: dict[str, Any] = {}
    for name, item in _walk(group):
        if item.shape is not None and item.shape[:1] == group["actions"].shape[:1] and item.dtype.kind in "biuf":
            found[name] = item
        elif name.startswith("observation"):
            raise DataError(
                f"{source}: {name!r} is {item.dtype} of shape {item.shape}, `actions` has "
                f"{group['actions'].shape[0]} steps; drop the demonstration, or record all steps alike"
            )
    return found


def _walk(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    name: str
    for name, item in group.items():
        if hasattr(item, "items"):
            if not prefix and name == "next_obs":
                continue
            ours = "observation" if not prefix and name == "obs" else name
            yield from _walk(item, f"{prefix}{ours}{SEPARATOR}")
        elif hasattr(item, "shape"):
            yield prefix + (name if prefix else RENAMED.get(name, name)), item


def _is_image(array: Any) -> bool:
    return array.dtype == np.uint8 and len(array.shape) == 4 and array.shape[3] == 3


def node_of(array: Any) -> Node:
    """How one array of a file, with one row per step, is described."""
    if _is_image(array):
        return Image(tuple(array.shape[1:]), "png")
    return Tensor(tuple(array.shape[1:]), "float32" if array.dtype.kind == "f" else array.dtype.name)


def check_alike(nodes: Mapping[str, Node], features: Features, source: str) -> None:
    """Raise DataError where a demonstration, described by `nodes`, is not as the first one, `features`."""
    wanted = features.steps.keys() - {INSTRUCTION}
    differ = ", ".join(repr(name) for name in sorted(nodes.keys() ^ wanted))
    if differ:
        raise DataError(f"{source} and the first demonstration differ in {differ}; record all alike, or drop it")
    for name, node in nodes.items():
        held = features.steps[name].feature
        if node != held:
            raise DataError(f"{source}: {name!r} is {node}, in the first demonstration {held}; record all alike")


def _check(arrays: Mapping[str, Any], features: Features, group: Any, source: str) -> None:
    check_alike({name: node_of(array) for name, array in arrays.items()}, features, source)
    told = group.attrs.get("num_samples")
    if told is not None and int(told) != len(arrays[ACTION]):
        raise DataError(f"{source} says num_samples {told} and has {len(arrays[ACTION])} actions; {FETCH}")


def values_of(path: Path, array: Any, source: str) -> Any:
    """What an episode holds of one array of the file at `path`: its numbers, or images that are fetched one by one."""
    if _is_image(array):
        name = array.name

        def fetch(step: int) -> NDArray[np.uint8]:
            with reading(path) as file:
                return file[name][step]

        return LazyImages(fetch, np.arange(len(array)), source)
    values = array[()]
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _instruction(group: Any, file: Any) -> str:
    attributes: tuple[Any, ...] = (
        _json(group.attrs.get("ep_meta")),
        group.attrs,
        _json(file["data"].attrs.get("problem_info")),
        file["data"].attrs,
        file.attrs,
    )
    for table in attributes:
        for name in SAID:
            if name in table and text_of(table[name]).strip():
                return text_of(table[name]).strip().strip('"')
    return ""


def _json(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text_of(text))
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def text_of(value: Any) -> str:
    """Text of an attribute, which may be bytes or not there."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return "" if value is None else str(value)

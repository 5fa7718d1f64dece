"""What a LeRobot data set says about itself: `meta/info.json`, its features, and their names here.

Versions v3.0 (many episodes per file) and v2.1, v2.0 (one file per episode) share `info.json`. Names: the camera
"observation.images.front" is "observation|front" here, "observation.state" is "observation|state"; any other dot
becomes "|". The instruction is a task number at every step there, `language_instruction` here. Columns that only count
(index, frame_index, episode_index, task_index) are left out; `timestamp` stays.

A data set that this package wrote has `meta/openvla.json` beside it: the description and the names that its episodes
had before, so that a way there and back changes nothing. Readers of LeRobot data ignore that file.

Source: LeRobotDataset v3.0 and v2.1, https://huggingface.co/docs/lerobot/lerobot-dataset-v3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from openvla.data.episode import describe
from openvla.data.formats.source import ACTION, INSTRUCTION
from openvla.data.tfds.features import SEPARATOR, Features, Image, Node, Tensor, Text
from openvla.errors import DataError
from openvla.files import read_json

INFO = Path("meta") / "info.json"
EXTRA = Path("meta") / "openvla.json"
COUNTERS = ("frame_index", "episode_index", "index", "task_index")
IMAGES = "observation.images."
SPLIT_RANGE = re.compile(r"(\d+):(\d+)")
FETCH = "fetch the data set's description again"


@dataclass(frozen=True)
class Feature:
    """One feature of `info.json`. kind: "video", "image", "string" or a numpy dtype; shape: of one step."""

    kind: str
    shape: tuple[int, ...]

    @property
    def is_camera(self) -> bool:
        """Whether it holds images."""
        return self.kind in ("video", "image")


@dataclass(frozen=True)
class LeRobotInfo:
    """The content of `info.json` that reading needs."""

    root: Path
    version: tuple[int, ...]
    fps: float
    num_episodes: int
    chunk_size: int
    data_path: str
    video_path: str
    features: Mapping[str, Feature]
    splits: Mapping[str, range]
    extra: Mapping[str, Any] | None

    @classmethod
    def load(cls, root: Path) -> LeRobotInfo:
        """Read `root`/meta/info.json. Raises DataError for another version, and for what is missing or malformed."""
        path = root / INFO
        raw = read_json(path, DataError, FETCH)
        if not isinstance(raw, dict):
            raise DataError(f"{path} holds a {type(raw).__name__}, not an object that describes a data set; {FETCH}")
        raw = cast("dict[str, Any]", raw)
        version = _version(raw.get("codebase_version"), path)
        try:
            info = _parse(root, version, raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path} does not describe a LeRobot data set ({type(error).__name__}: {error}); {FETCH}"
            ) from error
        if not info.fps > 0:
            raise DataError(f"{path} says fps {info.fps}; a data set needs a rate above 0")
        return info

    @cached_property
    def columns(self) -> dict[str, str]:
        """Our name of each feature -> its LeRobot name, without counters. Raises DataError where two names collide."""
        if self.extra is not None:
            return dict(self.extra["columns"])
        table: dict[str, str] = {}
        for name, feature in self.features.items():
            if name not in COUNTERS:
                ours = our_name(name, feature.is_camera)
                if ours in table:
                    both = f"{table[ours]!r} and {name!r}"
                    raise DataError(
                        f"{self.root / INFO}: the features {both} are both called {ours!r} here; rename one"
                    )
                table[ours] = name
        return table

    @cached_property
    def description(self) -> Features:
        """How every episode is described."""
        if self.extra is not None:
            return Features.from_json(self.extra["features"], str(self.root / EXTRA))
        nodes = {ours: _node(ours, self.features[name]) for ours, name in self.columns.items()}
        nodes.setdefault(INSTRUCTION, Text())
        return describe(nodes, {"episode_index": Tensor((), "int64")})


def our_name(name: str, camera: bool) -> str:
    """What a LeRobot feature is called here.

    >>> our_name("observation.images.front", True), our_name("next.reward", False)
    ('observation|front', 'next|reward')
    """
    if camera and name.startswith(IMAGES):
        return f"observation{SEPARATOR}{name.removeprefix(IMAGES)}"
    return name.replace(".", SEPARATOR)


def _node(ours: str, feature: Feature) -> Node:
    if feature.kind == "video":
        return Image(feature.shape, "png")
    if feature.kind == "image":
        return Image(feature.shape, "")
    if feature.kind == "string":
        return Text()
    vector = ours == ACTION or ours.startswith(f"observation{SEPARATOR}")
    return Tensor(feature.shape if vector or feature.shape != (1,) else (), feature.kind)


def _version(text: Any, path: Path) -> tuple[int, ...]:
    match = re.fullmatch(r"v?(\d+)\.(\d+).*", str(text))
    version = tuple(map(int, match.groups())) if match else ()
    if version[:1] != (3,) and version not in ((2, 0), (2, 1)):
        raise DataError(
            f"{path} is of version {text!r}; readable are v3.x, v2.1 and v2.0, convert the data set with its own tools"
        )
    return version


def _parse(root: Path, version: tuple[int, ...], raw: dict[str, Any]) -> LeRobotInfo:
    count = int(raw["total_episodes"])
    splits: dict[str, range] = {}
    for name, text in (raw.get("splits") or {"train": f"0:{count}"}).items():
        match = SPLIT_RANGE.fullmatch(str(text))
        if match is None or not int(match[1]) <= int(match[2]) <= count:
            raise ValueError(f"the split {name!r} is {text!r}, not a range of the {count} episodes such as '0:{count}'")
        splits[name] = range(int(match[1]), int(match[2]))
    extra = read_json(root / EXTRA, DataError, FETCH) if (root / EXTRA).is_file() else None
    if extra is not None and not (isinstance(extra, dict) and {"columns", "features"} <= extra.keys()):
        raise ValueError(f"{EXTRA} lacks columns and features")
    return LeRobotInfo(
        root=root,
        version=version,
        fps=float(raw["fps"]),
        num_episodes=count,
        chunk_size=int(raw.get("chunks_size", 1000)),
        data_path=str(raw["data_path"]),
        video_path=str(raw.get("video_path") or ""),
        features={name: _feature(name, each) for name, each in raw["features"].items()},
        splits=splits,
        extra=cast("dict[str, Any] | None", extra),
    )


def _feature(name: str, raw: dict[str, Any]) -> Feature:
    kind, shape = str(raw["dtype"]), tuple(int(size) for size in raw["shape"])
    if kind in ("video", "image"):
        names = cast("list[str]", raw.get("names") or [])
        if names and str(names[0]).startswith("channel"):
            shape = (*shape[1:], shape[0])
    elif kind != "string":
        try:
            np.dtype(kind)
        except TypeError as error:
            raise ValueError(f"the feature {name!r} has dtype {kind!r}") from error
    return Feature(kind, shape)

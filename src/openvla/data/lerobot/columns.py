"""How an episode's features are laid out in a LeRobot data set that this package writes.

Cameras become "observation.images.NAME", the robot's state "observation.state", any other "|" a dot; the instruction
becomes a task number. What LeRobot cannot hold (depth maps, lists of varying length, empty shapes) is refused by name.

Source: LeRobotDataset v3.0, https://huggingface.co/docs/lerobot/lerobot-dataset-v3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openvla.data.episode import Episode
from openvla.data.formats.source import INSTRUCTION, STATE
from openvla.data.lerobot.info import COUNTERS, IMAGES
from openvla.data.tfds.features import SEPARATOR, Image, Leaf, Tensor, Text
from openvla.errors import DataError, require

PROPRIO = "observation|proprio"
TIMESTAMP = "timestamp"
DROP = "leave it out with --drop"


@dataclass(frozen=True)
class Column:
    """One feature. ours, name: here and there; kind: "video", "image", "string" or a dtype; shape: of one step."""

    ours: str
    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def is_camera(self) -> bool:
        """Whether it holds images."""
        return self.kind in ("video", "image")

    def describe(self, fps: int, codec: str) -> dict[str, Any]:
        """Its entry in `info.json`; `codec` is that of the video."""
        names = ["height", "width", "channels"] if self.is_camera else None
        entry: dict[str, Any] = {"dtype": self.kind, "shape": list(self.shape), "names": names}
        if self.kind == "video":
            entry["info"] = {
                "video.height": self.shape[0],
                "video.width": self.shape[1],
                "video.codec": codec,
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": self.shape[2],
                "has_audio": False,
            }
        return entry

    def arrow(self) -> Any:
        """The type of its parquet column."""
        pa: Any = require("pyarrow", "data")
        if self.kind == "image":
            return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        if self.kind == "string":
            return pa.string()
        item: Any = pa.bool_() if self.kind == "bool" else getattr(pa, self.kind)()
        if self.shape == (1,):
            return item
        if len(self.shape) == 1:
            return pa.list_(item, self.shape[0])
        for _ in self.shape:
            item = pa.list_(item)
        return item

    def hub(self) -> dict[str, Any]:
        """Its type in the words of the `datasets` package."""
        if self.kind == "image":
            return {"_type": "Image"}
        value = {"dtype": self.kind, "_type": "Value"}
        if self.kind == "string" or self.shape == (1,):
            return value
        if len(self.shape) == 1:
            return {"feature": value, "length": self.shape[0], "_type": "List"}
        return {"shape": list(self.shape), "dtype": self.kind, "_type": f"Array{len(self.shape)}D"}


COUNTING = tuple(Column("", name, "int64", (1,)) for name in COUNTERS)
TIME = Column(TIMESTAMP, TIMESTAMP, "float32", (1,))


def plan(episode: Episode, video: bool) -> list[Column]:
    """The columns for episodes like this one, counters last. Raises DataError for what LeRobot cannot hold."""
    said = instruction_key(episode.features.steps)
    leaves = {name: leaf for name, leaf in episode.features.steps.items() if name not in (said, TIMESTAMP)}
    columns = [_column(episode, name, leaf, leaves, video) for name, leaf in leaves.items()]
    columns += [TIME, *COUNTING]
    taken: dict[str, str] = {}
    for column in columns:
        if column.name in taken:
            raise DataError(
                f"{episode.source}: {taken[column.name]!r} and {column.ours!r} would both be called {column.name!r} in "
                f"LeRobot's layout; {DROP}, or rename one"
            )
        taken[column.name] = column.ours
    return columns


def instruction_key(steps: Mapping[str, Leaf]) -> str | None:
    """The name of the instruction among the features: `language_instruction`, or the one that ends so."""
    if INSTRUCTION in steps:
        return INSTRUCTION
    return next((name for name in steps if name.endswith(INSTRUCTION)), None)


def lerobot_name(ours: str, camera: bool, others: Mapping[str, Any]) -> str:
    """What our feature `ours` is called there.

    >>> lerobot_name("observation|front", True, {}), lerobot_name("observation|proprio", False, {})
    ('observation.images.front', 'observation.state')
    """
    if camera:
        ours = IMAGES + ours.removeprefix(f"observation{SEPARATOR}")
    elif ours == PROPRIO and STATE not in others:
        ours = STATE
    return ours.replace(SEPARATOR, ".").replace("/", "_")


def _column(episode: Episode, ours: str, leaf: Leaf, others: Mapping[str, Any], video: bool) -> Column:
    feature = leaf.feature
    where = f"{episode.source}: {ours!r}"
    if leaf.depth > 1:
        raise DataError(f"{where} is a list at every step, which LeRobot cannot hold; {DROP} {ours}")
    if isinstance(feature, Image):
        if feature.dtype != "uint8" or (feature.shape[-1:] not in ((3,), (None,))):
            raise DataError(f"{where} is a depth map or has no 3 channels, which LeRobot cannot hold; {DROP} {ours}")
        shape = episode.image(ours, 0).shape
        return Column(ours, lerobot_name(ours, True, others), "video" if video else "image", shape)
    name = lerobot_name(ours, False, others)
    if isinstance(feature, Text) or (feature.dtype == "string" and feature.shape == ()):
        return Column(ours, name, "string", (1,))
    shape = tuple(size or 0 for size in feature.shape) or (1,)
    if feature.dtype == "string" or 0 in shape or len(shape) > 5:
        raise DataError(f"{where} is {feature}, which LeRobot cannot hold; {DROP} {ours}")
    return Column(ours, name, _kind(feature), shape)


def _kind(tensor: Tensor) -> str:
    return "float32" if tensor.dtype in ("bfloat16", "float16") else tensor.dtype

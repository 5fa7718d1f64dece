"""The description of an episode: `features.json` of TensorFlow Datasets as a small tree, and its flat list of leaves.

A node is a dict of named nodes, a `Sequence` of a node, or a leaf: `Tensor`, `Text`, `Image`. An episode is a dict
with `steps` (a sequence of one dict per time step) and usually `episode_metadata`. Names may themselves contain "/",
so the tree is walked and keys are never split: the leaf `steps`, `observation`, `present/xyz` is stored under
"steps/observation/present/xyz" and is called "observation|present/xyz" here.

Source: the TFDS feature connectors, https://www.tensorflow.org/datasets/api_docs/python/tfds/features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from openvla.errors import DataError
from openvla.files import read_json

SEPARATOR = "|"
STEPS, METADATA = "steps", "episode_metadata"
ENCODINGS = ("none", "bytes", "zlib")
IMAGE_FORMATS = ("jpeg", "png")
FETCH_AGAIN = "fetch the data set's description again"

Shape = tuple[int | None, ...]
Json = dict[str, Any]


@dataclass(frozen=True)
class Tensor:
    """Numbers, bools or byte strings of one shape (None: unknown length); `()` is a scalar.

    dtype: a numpy name, or "string" for byte strings. encoding: how one item is stored; see `fields`.
    """

    shape: Shape = ()
    dtype: str = "float32"
    encoding: str = "none"


@dataclass(frozen=True)
class Text:
    """One UTF-8 string."""


@dataclass(frozen=True)
class Image:
    """One encoded image; `shape` is (height, width, channels), `format` "jpeg", "png" or "" where either may occur."""

    shape: Shape = (None, None, 3)
    format: str = "jpeg"
    dtype: str = "uint8"


@dataclass(frozen=True)
class Sequence:
    """Any number of one node; `length` None: varies. `dataset` is how TFDS marks the sequence of time steps."""

    feature: Node
    length: int | None = None
    dataset: bool = False


LeafFeature = Tensor | Text | Image
Node = LeafFeature | Sequence | Mapping[str, "Node"]


@dataclass(frozen=True)
class Leaf:
    """A leaf and its place. name: joined by "|"; key: as stored; depth: number of sequences around it."""

    name: str
    key: str
    feature: LeafFeature
    depth: int


@dataclass(frozen=True)
class Features:
    """The description of one data set's episodes; `root` has the node `steps`."""

    root: Mapping[str, Node]

    @cached_property
    def steps(self) -> dict[str, Leaf]:
        """Per-step leaves by name, e.g. "observation|image_0"."""
        return {leaf.name: leaf for leaf in _leaves(self.root[STEPS], (STEPS,), (), 0)}

    @cached_property
    def metadata(self) -> dict[str, Leaf]:
        """Per-episode leaves by name; those of `episode_metadata` without that prefix."""
        leaves: list[Leaf] = []
        for name, node in self.root.items():
            if name != STEPS:
                leaves += _leaves(node, (name,), () if name == METADATA else (name,), 0)
        return {leaf.name: leaf for leaf in leaves}

    @classmethod
    def load(cls, path: Path) -> Features:
        """Read `features.json`. Raises DataError for a missing or foreign file, naming the node that is wrong."""
        return cls.from_json(read_json(path, DataError, FETCH_AGAIN), str(path))

    @classmethod
    def from_json(cls, raw: object, source: str) -> Features:
        """The description in `raw`, the parsed `features.json`; `source` names it in errors (DataError)."""
        try:
            root = _parse(raw, "the episode")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{source} does not describe features: {error}; fetch it again") from error
        if not isinstance(root, Mapping) or not isinstance(root.get(STEPS), Sequence):
            raise DataError(f"{source} describes no 'steps', a sequence of time steps; it is not an RLDS data set")
        return cls(root)

    def to_json(self) -> Json:
        """The content of `features.json`."""
        return _dump(self.root)


def _leaves(node: Node, path: tuple[str, ...], names: tuple[str, ...], depth: int) -> list[Leaf]:
    if isinstance(node, Sequence):
        return _leaves(node.feature, path, names, depth + 1)
    if isinstance(node, Mapping):
        return [x for name, inner in node.items() for x in _leaves(inner, (*path, name), (*names, name), depth)]
    return [Leaf(SEPARATOR.join(names), "/".join(path), node, depth)]


def _parse(raw: Any, what: str) -> Node:
    raw = _modern(raw)
    if "featuresDict" in raw:
        features = cast("Json", raw["featuresDict"].get("features", {}))
        return {name: _parse(inner, f"{what}, feature {name!r}") for name, inner in features.items()}
    if "sequence" in raw:
        length = int(raw["sequence"].get("length", -1))
        dataset = str(raw.get("pythonClassName", "")).endswith(".Dataset")
        return Sequence(_parse(raw["sequence"]["feature"], what), None if length < 0 else length, dataset)
    if "text" in raw:
        return Text()
    if "image" in raw:
        return _parse_image(raw["image"], what)
    if "tensor" in raw:
        return _parse_tensor(raw["tensor"], what)
    kind = raw.get("pythonClassName", "no known kind")
    raise ValueError(
        f"{what} is of kind {kind}; known are FeaturesDict, Sequence, Dataset, Tensor, Scalar, Text, Image"
    )


def _modern(raw: Any) -> Json:
    """`raw` with the older spelling `{"type", "content", "proto_cls"}` (before 2023) brought to the present one."""
    names = {"FeaturesDict": "featuresDict", "Sequence": "sequence", "TensorFeature": "tensor"}
    names |= {"TextFeature": "text", "ImageFeature": "image"}
    if "proto_cls" not in raw:
        return raw
    content = json.loads(raw["content"]) if isinstance(raw["content"], str) else raw["content"]
    return {"pythonClassName": raw["type"], names[raw["proto_cls"].rpartition(".")[2]]: content}


def _parse_tensor(raw: Json, what: str) -> Tensor:
    dtype, encoding = str(raw["dtype"]), str(raw.get("encoding") or "none").lower()
    if dtype != "string" and np.dtype(dtype).kind not in "biuf":
        raise ValueError(f"{what} has dtype {dtype!r}; known are bool, integers, floats and string")
    if encoding not in ENCODINGS:
        raise ValueError(f"{what} has encoding {encoding!r}; known are {', '.join(ENCODINGS)}")
    return Tensor(_parse_shape(raw), dtype, encoding)


def _parse_image(raw: Json, what: str) -> Image:
    form = str(raw.get("encodingFormat", ""))
    if form not in ("", *IMAGE_FORMATS):
        raise ValueError(f"{what} has image format {form!r}; known are {', '.join(IMAGE_FORMATS)}")
    return Image(_parse_shape(raw), form, str(raw.get("dtype", "uint8")))


def _parse_shape(raw: Json) -> Shape:
    sizes = [int(size) for size in raw.get("shape", {}).get("dimensions", [])]
    return tuple(None if size < 0 else size for size in sizes)


def _dump(node: Node) -> Json:
    if isinstance(node, Mapping):
        features = {name: _dump(inner) for name, inner in node.items()}
        return _named("features_dict.FeaturesDict", "featuresDict", {"features": features})
    if isinstance(node, Sequence):
        module = "dataset_feature.Dataset" if node.dataset else "sequence_feature.Sequence"
        length = "-1" if node.length is None else str(node.length)
        return _named(module, "sequence", {"feature": _dump(node.feature), "length": length})
    if isinstance(node, Text):
        return _named("text_feature.Text", "text", {})
    if isinstance(node, Image):
        content = {"shape": _dump_shape(node.shape), "dtype": node.dtype}
        return _named(
            "image_feature.Image", "image", content | ({"encodingFormat": node.format} if node.format else {})
        )
    content = {"shape": _dump_shape(node.shape), "dtype": node.dtype, "encoding": node.encoding}
    scalar = not node.shape and node.encoding == "none"
    return _named("scalar.Scalar" if scalar else "tensor_feature.Tensor", "tensor", content)


def _named(module: str, kind: str, content: Json) -> Json:
    return {"pythonClassName": f"tensorflow_datasets.core.features.{module}", kind: content}


def _dump_shape(shape: Shape) -> Json:
    return {"dimensions": ["-1" if size is None else str(size) for size in shape]} if shape else {}

"""One trajectory: flat arrays over time, still-encoded images, and the description of both.

Nested names are joined by "|": "observation|image_0", "action". Images stay encoded (4 kB instead of 200 kB each)
and are decoded one at a time, when asked for. `build_episode` makes an episode of plain arrays and infers its
description; `demonstration_episode` fixes the names under which simulators record.

Shapes: T time steps, A action and P proprioception dimensions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla.data.formats.lazy import LazyImages
from openvla.data.images.pixels import decode_image, encode_image
from openvla.data.tfds.features import METADATA, SEPARATOR, STEPS, Features, Image, Node, Tensor, Text
from openvla.data.tfds.features import Sequence as SequenceNode
from openvla.data.tfds.fields import objects
from openvla.errors import DataError, unknown


@dataclass(frozen=True)
class Episode:
    """One trajectory as stored.

    steps: name -> array with first axis T; encoded images and text are object arrays of bytes and str. Images that are
        fetched when asked for stand there as `LazyImages`.
    metadata: name -> value, once per episode.
    source: where it came from, for messages: file, record number, byte offset.
    features: how the steps and the metadata are stored.
    """

    steps: Mapping[str, NDArray[Any]]
    metadata: Mapping[str, Any] = field(repr=False)
    source: str
    features: Features = field(repr=False)

    def __len__(self) -> int:
        """T, the number of time steps."""
        return len(next(iter(self.steps.values()), ()))

    def __repr__(self) -> str:
        return f"Episode({self.source}, {len(self)} steps of {', '.join(self.steps)})"

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Names of the per-step images."""
        leaves = self.features.steps.values()
        return tuple(leaf.name for leaf in leaves if leaf.depth == 1 and isinstance(leaf.feature, Image))

    def image(self, key: str, step: int) -> NDArray[np.uint8]:
        """The image `key` at `step`, uint8 (H, W, 3), RGB, with the published decoder's pixels.

        Raises DataError for a name that is no image, a step out of range, and bytes that do not decode.
        """
        if key not in self.image_keys:
            raise DataError(f"{self.source}: {unknown(key, self.image_keys, 'image')}")
        if not -len(self) <= step < len(self):
            raise DataError(f"{self.source}: there is no step {step}, the episode has {len(self)}")
        dtype = cast("Image", self.features.steps[key].feature).dtype
        if dtype != "uint8":
            raise DataError(f"{self.source}: {key!r} holds {dtype} values, a depth map rather than a camera image")
        held: Any = self.steps[key]
        if isinstance(held, LazyImages):
            return held.pixels(step)
        return decode_image(held[step], f"{self.source}: {key!r} at step {step % len(self)}")

    def images(self, key: str) -> Iterator[NDArray[np.uint8]]:
        """The T images `key`, decoded one by one."""
        return (self.image(key, step) for step in range(len(self)))


def build_episode(
    steps: Mapping[str, ArrayLike | Sequence[str]],
    metadata: Mapping[str, Any] | None = None,
    *,
    image_format: str = "jpeg",
    source: str = "episode",
) -> Episode:
    """An episode of plain arrays with first axis T, with the description that follows from them.

    uint8 (T, H, W, 3) becomes encoded images ("jpeg" at quality 95, or "png"), str becomes text, other arrays tensors
    of their own dtype; float64 becomes float32, which is all the format can store.
    Raises DataError for lengths that differ or values of no known kind.
    """
    step_nodes: dict[str, Node] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, values in steps.items():
        step_nodes[name], arrays[name] = _infer(values, image_format, f"{source}: {name!r}")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"{source}: an episode needs one value of everything at every step; the lengths are {lengths}")
    meta_nodes: dict[str, Node] = {}
    meta: dict[str, Any] = {}
    for name, value in (metadata or {}).items():
        meta_nodes[name], batch = _infer([value], image_format, f"{source}: {name!r}")
        meta[name] = batch[0].item() if isinstance(batch[0], np.generic) else batch[0]
    return Episode(arrays, meta, source, describe(step_nodes, meta_nodes))


def describe(steps: Mapping[str, Node], metadata: Mapping[str, Node]) -> Features:
    """The description of episodes whose steps and metadata are these flat names and nodes."""
    root: dict[str, Node] = {STEPS: SequenceNode(_nest(steps), dataset=True)}
    if metadata:
        root[METADATA] = _nest(metadata)
    return Features(root)


def demonstration_episode(
    images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
    actions: ArrayLike,
    proprio: ArrayLike,
    instruction: str,
    *,
    task: str,
    seed: int,
) -> Episode:
    """A successful demonstration, T steps: images uint8 (T, H, W, 3), actions (T, A), proprio (T, P).

    Step t holds what was seen before action t was taken; the reward is 1 on the last step. Raises DataError.
    """
    action = np.asarray(actions, np.float32)
    count = len(action)
    last = np.arange(count) == count - 1
    steps: dict[str, Any] = {
        "observation|image": np.asarray(images),
        "observation|proprio": np.asarray(proprio, np.float32),
        "action": action,
        "language_instruction": [instruction] * count,
        "is_first": np.arange(count) == 0,
        "is_last": last,
        "is_terminal": last,
        "reward": last.astype(np.float32),
        "discount": np.ones(count, np.float32),
    }
    return build_episode(steps, {"task": task, "seed": seed}, source=f"demonstration of {task}, seed {seed}")


def _infer(values: Any, image_format: str, what: str) -> tuple[Node, NDArray[Any]]:
    """The description of values with first axis T, and the array that an episode holds them in."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what} has items of different shapes; give each step the same shape") from error
    if array.dtype == object and all(isinstance(item, str) for item in array):
        array = array.astype(str)
    if array.ndim == 4 and array.dtype == np.uint8 and array.shape[3] == 3:
        encoded = [encode_image(frame, image_format, f"{what} at step {t}") for t, frame in enumerate(array)]
        return Image(array.shape[1:], image_format), objects(encoded)
    if array.dtype.kind == "U" and array.ndim == 1:
        return Text(), objects(array.tolist())
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DataError(f"{what} is {array.dtype} of shape {array.shape}; give numbers, bools or str with a time axis")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    return Tensor(array.shape[1:], array.dtype.name), array


def _nest(flat: Mapping[str, Node]) -> dict[str, Node]:
    """{"a|b": node} -> {"a": {"b": node}}."""
    root: dict[str, Any] = {}
    for name, node in flat.items():
        *parents, last = name.split(SEPARATOR)
        place = root
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = node
    return root

"""An episode changed as a whole: images stored otherwise, features left out, steps chosen; and whether it is usable.

Shapes: T steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.data.episode import Episode
from openvla.data.formats.lazy import LazyImages
from openvla.data.formats.source import ACTION
from openvla.data.images.pixels import JPEG_MAGIC, PNG_MAGIC, encode_image
from openvla.data.tfds.features import SEPARATOR, STEPS, Features, Image, Node, Sequence
from openvla.data.tfds.fields import objects
from openvla.errors import DataError

MAGIC = {"jpeg": JPEG_MAGIC, "png": PNG_MAGIC}


def check_usable(episode: Episode) -> None:
    """Raise DataError for NaN or infinity among the actions, and for an image that does not decode or fit, by step."""
    action = episode.steps.get(ACTION)
    if action is not None and action.dtype.kind == "f":
        bad = ~np.isfinite(action.reshape(len(action), -1)).all(axis=1)
        if bad.any():
            step = int(np.argmax(bad))
            raise DataError(
                f"{episode.source}: the action at step {step} is {action[step].tolist()}, not all finite; drop such "
                "steps with `data doctor --fix drop-nan`, or skip the episode with --on-bad skip"
            )
    for key in camera_keys(episode):
        wanted = cast("Image", episode.features.steps[key].feature).shape
        for step, pixels in enumerate(episode.images(key)):
            if any(w is not None and w != g for w, g in zip(wanted, pixels.shape, strict=True)):
                raise DataError(
                    f"{episode.source}: {key!r} at step {step} has shape {pixels.shape}, the description says "
                    f"{wanted}; record all alike, or drop the episode"
                )


def camera_keys(episode: Episode) -> list[str]:
    """The images that are pictures: 8 bits a channel, and there at the first step (an empty one is padding)."""
    keys = [k for k in episode.image_keys if cast("Image", episode.features.steps[k].feature).dtype == "uint8"]
    return [key for key in keys if _is_lazy(episode.steps[key]) or episode.steps[key][0]]


def reencode(episode: Episode, form: str) -> Episode:
    """The episode with every camera image stored as `form`, "jpeg" (quality 95) or "png"; those that are so stay."""
    keys = camera_keys(episode)
    steps: dict[str, Any] = dict(episode.steps)
    for key in keys:
        steps[key] = objects(_recoded(episode, key, step, form) for step in range(len(episode)))
    return dataclasses.replace(episode, steps=steps, features=_with_format(episode.features, keys, form))


def without(episode: Episode, names: Collection[str]) -> Episode:
    """The episode without the step features `names`; those that it does not have are ignored."""
    if not names:
        return episode
    steps = {name: values for name, values in episode.steps.items() if name not in names}
    root = dict(episode.features.root)
    sequence = cast("Sequence", root[STEPS])
    root[STEPS] = dataclasses.replace(sequence, feature=_without(cast("Mapping[str, Node]", sequence.feature), names))
    return dataclasses.replace(episode, steps=steps, features=Features(root))


def take(episode: Episode, rows: NDArray[np.int64]) -> Episode:
    """The episode with the steps `rows`, in that order."""
    steps: dict[str, Any] = {name: cast("Any", values)[rows] for name, values in episode.steps.items()}
    return dataclasses.replace(episode, steps=steps)


def _recoded(episode: Episode, key: str, step: int, form: str) -> bytes:
    held = episode.steps[key]
    if not _is_lazy(held) and bytes(held[step]).startswith(MAGIC[form]):
        return held[step]
    return encode_image(episode.image(key, step), form, f"{episode.source}: {key!r} at step {step}")


def _is_lazy(values: Any) -> bool:
    return isinstance(values, LazyImages)


def _with_format(features: Features, keys: Collection[str], form: str) -> Features:
    def walk(node: Node, names: tuple[str, ...]) -> Node:
        if isinstance(node, Mapping):
            return {name: walk(inner, (*names, name)) for name, inner in node.items()}
        if isinstance(node, Image) and SEPARATOR.join(names) in keys:
            return dataclasses.replace(node, format=form)
        return node

    root = dict(features.root)
    sequence = cast("Sequence", root[STEPS])
    root[STEPS] = dataclasses.replace(sequence, feature=walk(sequence.feature, ()))
    return Features(root)


def _without(nodes: Mapping[str, Node], names: Collection[str], prefix: str = "") -> dict[str, Node]:
    kept: dict[str, Node] = {}
    for name, node in nodes.items():
        full = prefix + name
        if isinstance(node, Mapping):
            inner = _without(node, names, full + SEPARATOR)
            if inner:
                kept[name] = inner
        elif full not in names:
            kept[name] = node
    return kept

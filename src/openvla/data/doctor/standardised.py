"""An episode as training sees it: the action and words that a data set's record makes of the raw steps.

Most Open X-Embodiment sets store their actions in parts and under names of their own, and only the record says which.

Shapes: T raw steps, N <= T steps after the record's transform.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from openvla.data.conversion.recode import take
from openvla.data.episode import Episode, describe
from openvla.data.formats.source import ACTION, INSTRUCTION
from openvla.data.registry.record import VIEWS, DataRecord
from openvla.data.standardize import standardize
from openvla.data.tfds.features import Node, Tensor, Text
from openvla.errors import DataError, unknown


def standardised(episode: Episode, record: DataRecord) -> Episode:
    """The N steps that `record` keeps, with its action and words in place of the raw ones and its camera first.

    Raises DataError where the episode lacks what the record names, and where no step is left.
    """
    try:
        made = standardize(record, episode.steps)
    except DataError as error:
        raise DataError(f"{episode.source}: {error}") from error
    if not len(made["step"]):
        raise DataError(f"{episode.source}: {record.name!r} keeps none of its {len(episode)} steps; record longer ones")
    seen = take(episode, made["step"])
    steps: dict[str, Any] = dict(seen.steps)
    steps |= {ACTION: made["action"], INSTRUCTION: made["language_instruction"]}
    nodes: dict[str, Node] = {key: episode.features.steps[key].feature for key in _cameras(episode, record)}
    nodes |= {ACTION: Tensor(made["action"].shape[1:]), INSTRUCTION: Text()}
    return dataclasses.replace(seen, steps=steps, features=describe(nodes, {}))


def _cameras(episode: Episode, record: DataRecord) -> list[str]:
    """The episode's images, the one that training looks at first. Raises DataError where that is missing."""
    keys = list(episode.image_keys)
    first = next((record.images[view] for view in (*VIEWS, *record.images) if view in record.images), None)
    if first is None:
        return keys
    if first not in keys:
        raise DataError(f"{episode.source}: {record.name!r}: {unknown(first, keys, 'image')}")
    return sorted(keys, key=lambda key: key != first)

"""Mixtures of data sets: which of them, and how often each is drawn from.

A weight says how much a step of a data set counts. With `balance`, as published, a data set is drawn from in
proportion to weight x steps, so that among data sets of weight 1 every step is as likely as any other; without, in
proportion to the weight alone. Steps are counted as statistics count them: over all splits, before any filter.

Source: the mixtures of the published OpenVLA code (oxe/mixtures.py), of OpenVLA-OFT and of OpenVLA-mini.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla.data.registry.find import DATASETS, FILE_SUFFIX, find_record
from openvla.data.registry.mixture_tables import MIXTURES
from openvla.data.registry.record import DataRecord
from openvla.errors import DataError, UsageError, unknown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MixtureEntry:
    """One data set of a mixture. name: what its statistics are stored under. weight: above 0."""

    name: str
    weight: float
    record: DataRecord


def mixture(source: str | Sequence[tuple[str, float]]) -> tuple[MixtureEntry, ...]:
    """The data sets of `source`: a mixture's name, a single data set's, or data sets with weights.

    In one string, data sets are joined by commas: "bridge_orig=1.0,my_file.py:MINE=0.5"; the weight may be left out.
    A data set that is named twice counts with its first weight, and one whose actions cannot be trained on is left
    out; a line in the log says so. Raises UsageError for unknown names, weights that are not above 0, and a mixture
    of which nothing is left.
    """
    kept: dict[str, MixtureEntry] = {}
    for dataset, weight in _listed(source) if isinstance(source, str) else source:
        if not (math.isfinite(weight) and weight > 0):
            raise UsageError(f"the weight of {dataset!r} is {weight}; give a number above 0, or leave the data set out")
        record = find_record(dataset)
        if record.name in kept:
            log.warning(
                "%s is in the mixture twice; the first weight, %g, counts", record.name, kept[record.name].weight
            )
        elif record.refusal:
            log.warning("leaving %s out of the mixture: %s", record.name, record.refusal)
        else:
            kept[record.name] = MixtureEntry(record.name, float(weight), record)
    if not kept:
        raise UsageError(f"nothing is left of the mixture {source!r}; name data sets whose actions can be trained on")
    return tuple(kept.values())


def sampling_weights(
    entries: Sequence[MixtureEntry], lengths: Mapping[str, int], *, balance: bool = True
) -> NDArray[np.float64]:
    """How likely each entry is the next to be drawn from; sums to 1. lengths: steps of each data set, by name.

    Raises DataError for a data set without a length or without steps.
    """
    for entry in entries:
        known = lengths.get(entry.name, 0)
        if known < 1:
            raise DataError(
                f"the mixture has {entry.name!r}, of which {known} steps are known; compute its statistics, or leave "
                "it out"
            )
    weights = np.array([entry.weight for entry in entries], np.float64)
    if balance:
        weights = weights * np.array([lengths[entry.name] for entry in entries], np.float64)
    return weights / weights.sum()


def epoch_length(entries: Sequence[MixtureEntry], lengths: Mapping[str, int], *, balance: bool = True) -> int:
    """Samples after which each data set of weight 1 has been seen once, as published; balanced, sum of weight x steps.

    Without a data set of weight 1, which the published code cannot do, the one that takes longest counts.
    Raises DataError as `sampling_weights`.
    """
    shares = sampling_weights(entries, lengths, balance=balance)
    rounds = np.array([lengths[entry.name] for entry in entries]) / shares
    primary = np.array([entry.weight == 1.0 for entry in entries])
    if primary.any():
        return int(rounds[primary].max())
    if balance:
        return int(sum(entry.weight * lengths[entry.name] for entry in entries))
    return int(rounds.max())


def _listed(text: str) -> Sequence[tuple[str, float]]:
    """What one word stands for: a mixture, or a list of data sets."""
    if text in MIXTURES:
        return MIXTURES[text]
    items = [_item(item.strip()) for item in text.split(",") if item.strip()]
    if len(items) == 1 and items[0][0] not in DATASETS and FILE_SUFFIX not in text:
        raise UsageError(unknown(items[0][0], {*MIXTURES, *DATASETS}, "mixture or data set"))
    return items


def _item(text: str) -> tuple[str, float]:
    name, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        raise UsageError(f"{text!r} has the weight {weight!r}; write NAME=NUMBER, e.g. bridge_orig=1.0") from None

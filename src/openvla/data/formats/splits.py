"""Which episodes a split names: "train", "all", "train[:95%]", "train[10:20]", "train+val[:5]".

A bound counts episodes in reading order. A percentage is rounded half to even, as published: of 25 episodes
"train[:95%]" holds 24 and "train[95%:]" the last one. A negative bound counts from the end.

Source: TensorFlow Datasets, https://www.tensorflow.org/datasets/splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from openvla.errors import DataError

SUB_SPLIT = re.compile(r"(?P<name>[\w-]+)(\[(?P<start>-?[\d.]+%?)?:(?P<stop>-?[\d.]+%?)?\])?")


def select(spec: str, counts: Mapping[str, int], source: str) -> list[tuple[str, range]]:
    """The episodes that `spec` names: (split, episode numbers in it), in reading order.

    counts: episodes of each split. source: names the data set in errors.
    Raises DataError for a split that does not exist (listing those that do) and bounds outside of it.
    """
    if spec == "all":
        return [(name, range(count)) for name, count in counts.items()]
    return [_select_one(part.strip(), counts, source) for part in spec.split("+")]


def _select_one(text: str, counts: Mapping[str, int], source: str) -> tuple[str, range]:
    match = SUB_SPLIT.fullmatch(text)
    if match is None:
        raise DataError(f"split {text!r} cannot be read; write 'train', 'train[:95%]', 'train[10:20]' or 'all'")
    name = match["name"]
    if name not in counts:
        raise DataError(f"{source} has no split {name!r}; it has {', '.join(counts) or 'none'}")
    start = _bound(match["start"], 0, name, counts[name], text)
    stop = _bound(match["stop"], counts[name], name, counts[name], text)
    return name, range(start, max(start, stop))


def _bound(text: str | None, default: int, name: str, total: int, spec: str) -> int:
    if text is None:
        return default
    try:
        value = round(float(text[:-1]) * total / 100.0) if text.endswith("%") else int(text)
    except ValueError:
        raise DataError(
            f"split {spec!r} has a bound {text!r} that is neither a whole number nor a percentage"
        ) from None
    if abs(value) > total:
        raise DataError(f"split {spec!r} reaches beyond the {total} episodes of {name!r}; use smaller bounds")
    return value + total if value < 0 else value

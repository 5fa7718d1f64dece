"""Raw steps of a known data set -> the common form that training and statistics use.

Images are not touched: `step` tells which raw step each row came from, since a transform may drop steps.

Shapes: T raw steps, N <= T rows after the transform, A action and P proprioception dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from openvla.data.registry.columns import Steps, join, zeros
from openvla.data.registry.find import find_record
from openvla.data.registry.record import DataRecord
from openvla.data.tfds.fields import objects
from openvla.errors import DataError

ROW = "|row"
"""Where the number of each raw step travels; no data set has a feature of that name."""


class StandardSteps(TypedDict):
    """action float32 (N, A), proprio float32 (N, P), language_instruction N str, step int64 (N,): the raw step."""

    action: NDArray[np.float32]
    proprio: NDArray[np.float32]
    language_instruction: NDArray[Any]
    step: NDArray[np.int64]


def standardize(name: str | DataRecord, steps: Steps) -> StandardSteps:
    """Bring the flat raw `steps` of the data set `name` (see `oxe.find_record`) to the common form.

    Raises UsageError for an unknown name, DataError for steps that lack what the data set should have.
    """
    record = find_record(name)
    lengths = {key: len(values) for key, values in steps.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"steps need one value of everything each; the lengths are {lengths}")
    try:
        count = next(iter(lengths.values()), 0)
        raw = record.transform({**steps, ROW: np.arange(count)})
        action = np.asarray(raw["action"], np.float32)
        columns = [zeros(1) if key is None else key for key in record.proprio] or [zeros(0)]
        proprio = np.asarray(join(raw, columns), np.float32)
        instruction = objects(map(_text, raw[record.language]))
    except KeyError as error:
        held = ", ".join(steps)
        raise DataError(
            f"these steps are not of {record.name!r}: they lack {error.args[0]!r}; they have {held}; name the data set "
            "they come from"
        ) from error
    except Exception as error:  # a record of one's own may hold functions of any kind
        raise DataError(
            f"these steps are not of {record.name!r}: {str(error) or type(error).__name__}; their shapes are "
            f"{_shapes(steps)}; name the data set they come from, or correct its record"
        ) from error
    if action.shape[1:] != (record.action.dim,):
        raise DataError(
            f"{record.name!r} has {record.action.dim} action dimensions, these steps have {action.shape[1:]}; name the "
            "data set they come from, or use data of the same robot"
        )
    return StandardSteps(action=action, proprio=proprio, language_instruction=instruction, step=raw[ROW])


def _shapes(steps: Steps) -> Mapping[str, tuple[int, ...]]:
    return {key: np.shape(values) for key, values in steps.items()}


def _text(item: Any) -> str:
    """One instruction: text, UTF-8 bytes, or Unicode code points that end with the first zero.

    Raises TypeError for anything else.
    """
    if isinstance(item, bytes):
        return item.decode()
    if isinstance(item, np.ndarray):
        stop = np.flatnonzero(item == 0)
        return "".join(map(_character, item[: stop[0] if len(stop) else None].tolist()))
    if not isinstance(item, str):
        raise TypeError(f"an instruction is {item!r}, which is no text")
    return str(item)


def _character(code: int) -> str:
    """The character of a code point; the replacement character for what is none."""
    return chr(code) if 0 <= code < 0xD800 or 0xE000 <= code <= 0x10FFFF else "\ufffd"

"""Raw steps of a known data set -> the common form that training and statistics use.

Images are not touched: `step` tells which raw step each row came from, since a transform may drop steps.

Shapes: T raw steps, N <= T rows after the transform, A action and P proprioception dimensions.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from openvla.data.fields import objects
from openvla.data.oxe import DATASETS, Steps
from openvla.errors import DataError, lookup

ROW = "step"


class StandardSteps(TypedDict):
    """action float32 (N, A), proprio float32 (N, P), language_instruction N str, step int64 (N,): the raw step."""

    action: NDArray[np.float32]
    proprio: NDArray[np.float32]
    language_instruction: NDArray[Any]
    step: NDArray[np.int64]


def standardize(name: str, steps: Steps) -> StandardSteps:
    """Bring the flat raw `steps` of the data set `name` (see `oxe.DATASETS`) to the common form.

    Raises UsageError for an unknown name, DataError for steps that lack what the data set should have.
    """
    record = lookup(name, DATASETS, "data set")
    try:
        raw = record.transform({**steps, ROW: np.arange(len(steps["action"]))})
        action = np.asarray(raw["action"], np.float32)
        columns = [np.zeros((len(action), 1)) if key is None else raw[key] for key in record.proprio]
        proprio = np.concatenate(columns, axis=1).astype(np.float32)
        instruction = objects(_text(item) for item in raw[record.language])
    except KeyError as error:
        held = ", ".join(steps)
        raise DataError(
            f"these steps are not of {name!r}: they lack {error.args[0]!r}; they have {held}; name the data set they "
            "come from"
        ) from error
    except (ValueError, TypeError, IndexError) as error:
        shapes = {key: values.shape for key, values in steps.items()}
        raise DataError(
            f"these steps are not of {name!r}: {error}; their shapes are {shapes}; name the data set they come from"
        ) from error
    if action.shape[1:] != (record.action.dim,):
        raise DataError(
            f"{name!r} has {record.action.dim} action dimensions, these steps have {action.shape[1:]}; name the data "
            "set they come from, or use data of the same robot"
        )
    return StandardSteps(action=action, proprio=proprio, language_instruction=instruction, step=raw[ROW])


def _text(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)

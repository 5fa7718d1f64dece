"""Messages of the published `POST /act` protocol: JSON in which an array is an object with its bytes in base64.

    {"__numpy__": base64 of the elements in C order, "dtype": "|u1", "shape": [224, 224, 3]}

Only numbers and booleans travel; a message that asks for any other dtype is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError


def dumps(message: object) -> bytes:
    """JSON in UTF-8 of `message`, which may hold numpy arrays and scalars anywhere."""
    return json.dumps(message, default=_encode).encode()


def loads(data: bytes | str) -> Any:
    """The message in `data`, arrays restored; they are read-only. Raises InputError for what is no such message."""
    try:
        return json.loads(data, object_hook=_decode)
    except (ValueError, OverflowError, RecursionError) as error:  # the latter: absurd shapes, absurd nesting
        if isinstance(error, InputError):
            raise
        raise InputError(f"the message is not JSON ({error}); send the published /act format") from error


def _encode(value: object) -> dict[str, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise InputError(f"a message cannot hold a {type(value).__name__}; convert it to a numpy array")
    array = np.asarray(value)
    _check_dtype(array.dtype)
    return {
        "__numpy__": base64.b64encode(array.tobytes()).decode("ascii"),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }


def _decode(fields: dict[str, Any]) -> dict[str, Any] | NDArray[Any]:
    if "__numpy__" not in fields:
        return fields
    try:
        raw = base64.b64decode(fields["__numpy__"], validate=True)
        dtype = np.dtype(fields["dtype"])
        shape = cast("list[int]", fields["shape"])
        sizes_are_valid = all(type(size) is int and size >= 0 for size in shape)
    except (KeyError, TypeError, ValueError, SyntaxError, binascii.Error) as error:
        raise InputError(
            "an array in the message is malformed; it needs '__numpy__' (base64), 'dtype' and 'shape'"
        ) from error
    _check_dtype(dtype)
    if not sizes_are_valid or len(raw) != math.prod(shape) * dtype.itemsize:
        raise InputError(
            f"an array in the message has {len(raw)} bytes, but shape {shape} of {dtype} does not take that many; "
            "send all elements in C order"
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def _check_dtype(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf":
        raise InputError(f"arrays of dtype {dtype} do not travel; send numbers or booleans")

"""Messages of the published `POST /act` protocol: JSON in which an array is an object with its bytes in base64.

    {"__numpy__": base64 of the elements in C order, "dtype": "|u1", "shape": [224, 224, 3]}

Only numbers and booleans travel; a message that asks for any other dtype is refused. Nothing is allocated from a
claimed shape: an array is a view of bytes that did arrive.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError

MALFORMED = "an array in the message is malformed; it needs {bytes}, 'dtype' and 'shape'"

MOST_AXES = 32
"""What every release of numpy can hold."""

# numpy would also parse structures, subarrays and old aliases; none of them is ever wanted here.
_DTYPE = re.compile(r"[<>=|]?([biuf][1248]|\?)|bool|u?int(8|16|32|64)|float(16|32|64)")


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


def restore(raw: object, dtype: object, shape: object, key: str) -> NDArray[Any]:
    """The array of `shape` over the bytes `raw`, read-only. Raises InputError for anything that does not fit.

    `key` is what the message calls the bytes.
    """
    if not isinstance(raw, bytes) or not isinstance(dtype, str) or not isinstance(shape, list | tuple):
        raise InputError(MALFORMED.format(bytes=key))
    if not _DTYPE.fullmatch(dtype):
        raise InputError(f"arrays of dtype {dtype[:16]!r} do not travel; send numbers or booleans")
    kind = _dtype(dtype)
    sizes = list(cast("list[object]", shape))
    if len(sizes) > MOST_AXES or not all(type(size) is int and size >= 0 for size in sizes):
        raise InputError(f"an array in the message has the shape {str(sizes)[:80]}; give whole numbers from 0")
    counts = cast("list[int]", sizes)
    if len(raw) != math.prod(counts) * kind.itemsize:
        raise InputError(
            f"an array in the message has {len(raw)} bytes, but shape {str(counts)[:80]} of {kind} does not take that "
            "many; send all elements in C order"
        )
    try:
        return np.frombuffer(raw, kind).reshape(counts)
    except (ValueError, OverflowError) as error:  # an empty array of astronomic shape
        raise InputError(f"an array in the message has the shape {str(counts)[:80]}, which no array has") from error


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError as error:  # f1, b2 and the like
        raise InputError(f"arrays of dtype {name!r} do not travel; send numbers or booleans") from error


def _encode(value: object) -> dict[str, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise InputError(f"a message cannot hold a {type(value).__name__}; convert it to a numpy array")
    array = np.asarray(value)
    check_dtype(array.dtype)
    return {
        "__numpy__": base64.b64encode(array.tobytes()).decode("ascii"),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }


def _decode(fields: dict[str, Any]) -> dict[str, Any] | NDArray[Any]:
    if "__numpy__" not in fields:
        return fields
    key = "'__numpy__' (base64)"
    try:
        raw = base64.b64decode(fields["__numpy__"], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(MALFORMED.format(bytes=key)) from error
    return restore(raw, fields.get("dtype"), fields.get("shape"), key)


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Raise InputError for arrays of anything but numbers and booleans."""
    if dtype.kind not in "biuf":
        raise InputError(f"arrays of dtype {dtype} do not travel; send numbers or booleans")

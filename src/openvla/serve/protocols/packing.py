"""Messages over WebSockets: msgpack in which an array is a map with its bytes.

Two dialects differ in how the map names its fields, and both are read:

    openpi    {b"__ndarray__": True, b"data": bytes, b"dtype": "|u1", b"shape": [224, 224, 3]}
    vla-eval  {"__ndarray__": True, "data": bytes, "dtype": "|u1", "shape": [224, 224, 3]}
              {"__image__": True, "format": "png", "data": bytes of the file, ...}

An encoded image stays the bytes of its file: whoever knows the limits decodes it. msgpack itself bounds every length
by the size of the message and nesting by 512.

Source: packages openpi-client 0.1 and vla-eval 0.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from openvla.errors import InputError, require
from openvla.serve.protocols.wire import MALFORMED, check_dtype, restore

Dialect = Literal["openpi", "vla-eval"]


def pack(message: object, dialect: Dialect) -> bytes:
    """`message` in msgpack; it may hold numpy arrays and scalars anywhere."""
    encode = {"openpi": _encode_openpi, "vla-eval": _encode_vla_eval}[dialect]
    return require("msgpack", "serve").packb(message, default=encode)


def unpack(data: bytes) -> Any:
    """The message in `data`, arrays restored; they are read-only. Raises InputError for what is no such message."""
    try:
        return require("msgpack", "serve").unpackb(data, object_hook=_decode)
    except InputError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        reason = f"{error}".partition("\n")[0][:80] or type(error).__name__
        raise InputError(f"the message is not msgpack ({reason}); send one map per message") from error


def _encode_openpi(value: object) -> object:
    array = _array(value)
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}


def _encode_vla_eval(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    array = _array(value)
    return {"__ndarray__": True, "data": array.tobytes(), "dtype": array.dtype.str, "shape": array.shape}


def _array(value: object) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise InputError(f"a message cannot hold a {type(value).__name__}; convert it to a numpy array")
    array = np.asarray(value)
    check_dtype(array.dtype)
    return array


def _decode(fields: dict[Any, Any]) -> object:
    def field(name: str) -> object:
        return fields.get(name, fields.get(name.encode()))

    if _marked(fields, "__image__") and field("format") != "raw":
        data = field("data")
        if not isinstance(data, bytes):
            raise InputError(MALFORMED.format(bytes="'data'"))
        return data
    if _marked(fields, "__ndarray__") or _marked(fields, "__image__"):
        return restore(field("data"), _text(field("dtype")), field("shape"), "'data'")
    if _marked(fields, "__npgeneric__"):
        number = field("data")
        if not isinstance(number, bool | int | float):
            raise InputError(MALFORMED.format(bytes="'data'"))
        return number
    return fields


def _marked(fields: Mapping[Any, Any], name: str) -> bool:
    return name in fields or name.encode() in fields


def _text(value: object) -> object:
    """`value`, as text where an older packer sent ASCII as bytes."""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value

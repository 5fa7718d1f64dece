"""One leaf of an episode, between what is stored (`example.Value`) and arrays.

A stored list has the time axis flattened in: `steps/action` holds T * 7 floats. Bools and integers are int64 (uint64
by its bits), floats are float32 whatever the description says: a float64 leaf comes back as float64 with float32
precision. A tensor with encoding "bytes" or "zlib" is one byte string per item; with two or more unknown sizes it is
stored as `key/value` and `key/shape`. A sequence inside a step is `key/ragged_flat_values` and, from the outside in,
`key/ragged_row_lengths_0`, ...; it becomes an object array of lists, the innermost ones arrays.
Images stay encoded: an object array of bytes. Text is an object array of str.

Shapes: N items (time steps, or all values of a ragged leaf), then the leaf's own shape.
Source: the example serialiser of TensorFlow Datasets.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from openvla.data.tfds.example import BytesList, Value
from openvla.data.tfds.features import Leaf, LeafFeature, Shape, Tensor, Text
from openvla.errors import DataError

MAX_INFLATED = 2**28
"""Bytes that one compressed item of unknown shape may unpack to."""

Array = NDArray[Any]
Stored = dict[str, Sequence[bytes] | NDArray[np.float32] | NDArray[np.int64]]
T = TypeVar("T")


def objects(items: Iterable[Any]) -> NDArray[Any]:
    """A 1-D object array; numpy would turn equally long items into more axes."""
    items = list(items)
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def decode_steps(leaves: Iterable[Leaf], stored: Mapping[str, Value], source: str) -> dict[str, Array]:
    """All per-step leaves by name, first axis T. Raises DataError naming `source` and the leaf that does not fit."""
    leaves = list(leaves)
    counts = {leaf.name: _guard(leaf, source, lambda leaf=leaf: _count(leaf, stored)) for leaf in leaves}
    known = {name: count for name, count in counts.items() if count is not None}
    steps = max(known.values(), default=0)
    for name, count in known.items():
        if count != steps:
            raise DataError(
                f"{source}: {name!r} has {count} steps where others have {steps}; the record does not fit its "
                "features.json, so the data set mixes versions or was written wrongly"
            )
    return {leaf.name: _guard(leaf, source, lambda leaf=leaf: _decode(leaf, stored, steps)) for leaf in leaves}


def decode_metadata(leaves: Iterable[Leaf], stored: Mapping[str, Value], source: str) -> dict[str, Any]:
    """All per-episode leaves by name; scalars become Python values, text a str. Raises DataError as `decode_steps`."""
    table: dict[str, Any] = {}
    for leaf in leaves:
        if leaf.depth:
            value = _guard(leaf, source, lambda leaf=leaf: _decode(leaf, stored, _count(leaf, stored) or 0))
        else:
            value = _guard(leaf, source, lambda leaf=leaf: _decode(leaf, stored, 1))[0]
        table[leaf.name] = value.item() if isinstance(value, np.generic) else value
    return table


def encode_leaf(leaf: Leaf, values: Any, source: str) -> Stored:
    """What is stored for one leaf's `values`, (T, ...) for a step leaf. Raises DataError naming `source` and leaf."""
    return _guard(leaf, source, lambda: _encode(leaf, values))


def _guard(leaf: Leaf, source: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except (ValueError, TypeError, AttributeError, OverflowError, MemoryError, zlib.error) as error:
        raise DataError(f"{source}: {leaf.name!r} does not fit its description {leaf.feature}: {error}") from error


def _count(leaf: Leaf, stored: Mapping[str, Value]) -> int | None:
    """How many items the outermost sequence of `leaf` holds; None where only other leaves can tell."""
    if leaf.depth > 1:
        return len(stored.get(_lengths_key(leaf, 0), ()))
    return _count_items(leaf.feature, leaf.key, stored)


def _count_items(feature: LeafFeature, key: str, stored: Mapping[str, Value]) -> int | None:
    if not isinstance(feature, Tensor):
        return len(stored.get(key, ()))
    if feature.encoding != "none":
        return len(stored.get(_value_key(feature, key), ()))
    size = _item_size(feature.shape)
    if not size:
        return None
    count, rest = divmod(len(stored.get(key, ())), size)
    if rest:
        raise ValueError(f"{count * size + rest} values are no whole number of items of {size}")
    return count


def _decode(leaf: Leaf, stored: Mapping[str, Value], count: int) -> Array:
    if leaf.depth < 2:
        return _decode_items(leaf.feature, leaf.key, stored, count)
    flat_key = f"{leaf.key}/ragged_flat_values"
    rows: Any = _decode_items(leaf.feature, flat_key, stored, _count_items(leaf.feature, flat_key, stored) or 0)
    for level in reversed(range(leaf.depth - 1)):
        lengths = _numbers(stored, _lengths_key(leaf, level), np.int64)
        if np.any(lengths < 0) or lengths.sum() != len(rows):
            raise ValueError(f"row lengths {lengths.tolist()[:20]} do not add up to {len(rows)} values")
        stops = np.cumsum(lengths).tolist()
        rows = [rows[stop - length : stop] for stop, length in zip(stops, lengths.tolist(), strict=True)]
    return objects(rows)


def _decode_items(feature: LeafFeature, key: str, stored: Mapping[str, Value], count: int) -> Array:
    if isinstance(feature, Tensor):
        return _decode_tensor(feature, key, stored, count)
    items = _byte_strings(stored, key, count)
    return objects([item.decode() for item in items] if isinstance(feature, Text) else items)


def _decode_tensor(tensor: Tensor, key: str, stored: Mapping[str, Value], count: int) -> Array:
    if tensor.dtype == "string":
        size = _item_size(tensor.shape)
        items = list(_byte_strings(stored, key, None if size is None else count * size))
        return objects(items).reshape(_batch_shape(count, tensor.shape, len(items)))
    dtype = np.dtype(tensor.dtype)
    if tensor.encoding != "none":
        return _decode_byte_tensors(tensor, dtype, key, stored, count)
    values = _numbers(stored, key, np.float32 if dtype.kind == "f" else np.int64)
    shaped = values.reshape(_batch_shape(count, tensor.shape, len(values)))
    return shaped.view(np.uint64) if dtype == np.uint64 else shaped.astype(dtype)


def _decode_byte_tensors(tensor: Tensor, dtype: np.dtype[Any], key: str, stored: Mapping[str, Value], n: int) -> Array:
    items = _byte_strings(stored, _value_key(tensor, key), n)
    shapes: list[Any] = [[-1 if size is None else size for size in tensor.shape]] * n
    if _is_dynamic(tensor.shape):
        shapes = _numbers(stored, f"{key}/shape", np.int64).reshape(n, len(tensor.shape)).tolist()
    arrays: list[Array] = []
    for item, shape in zip(items, shapes, strict=True):
        raw = _inflate(item, shape, dtype.itemsize) if tensor.encoding == "zlib" else item
        arrays.append(np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype).reshape(shape))
    if None in tensor.shape:
        return objects(arrays)
    return np.stack(arrays) if arrays else np.empty(_batch_shape(0, tensor.shape, 0), dtype)


def _inflate(item: bytes, shape: Sequence[int], item_bytes: int) -> bytes:
    """Decompress to what `shape` (-1: unknown) can hold and no more: a kilobyte may claim to be a terabyte."""
    declared = math.prod(shape) * item_bytes
    limit = declared if 0 <= declared <= MAX_INFLATED and min(shape, default=0) >= 0 else MAX_INFLATED
    inflater = zlib.decompressobj()
    raw = inflater.decompress(item, limit + 1)
    if len(raw) > limit:
        raise ValueError(f"an item unpacks to more than the {limit} bytes of its shape {tuple(shape)}")
    if not inflater.eof:
        raise ValueError("an item's compressed bytes end early")
    return raw


def _encode(leaf: Leaf, values: Any) -> Stored:
    if leaf.depth == 0:
        values = [values]
    if leaf.depth < 2:
        return _encode_items(leaf.feature, leaf.key, values)
    stored: Stored = {}
    for level in range(leaf.depth - 1):
        stored[_lengths_key(leaf, level)] = np.array([len(row) for row in values], np.int64)
        values = [item for row in values for item in row]
    return stored | _encode_items(leaf.feature, f"{leaf.key}/ragged_flat_values", values)


def _encode_items(feature: LeafFeature, key: str, items: Sequence[Any]) -> Stored:
    if isinstance(feature, Tensor):
        return _encode_tensor(feature, key, items)
    kind = str if isinstance(feature, Text) else bytes
    for item in items:
        if not isinstance(item, kind):
            raise TypeError(f"it must hold {kind.__name__}, not {type(item).__name__}")
    return {key: [item.encode() if isinstance(item, str) else item for item in items]}


def _encode_tensor(tensor: Tensor, key: str, items: Sequence[Any]) -> Stored:
    if tensor.dtype == "string":
        flat = np.asarray(items, object)
        _check_shape(flat.shape[1:], tensor.shape)
        return {key: [bytes(item) for item in flat.ravel()]}
    arrays = [_cast(item, tensor) for item in items]
    if tensor.encoding == "none":
        return {key: _as_stored(np.stack(arrays).ravel() if arrays else np.empty(0, tensor.dtype))}
    raw = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in arrays]
    stored: Stored = {_value_key(tensor, key): [zlib.compress(x) for x in raw] if tensor.encoding == "zlib" else raw}
    if _is_dynamic(tensor.shape):
        stored[f"{key}/shape"] = np.array([array.shape for array in arrays], np.int64).ravel()
    return stored


def _cast(item: Any, tensor: Tensor) -> Array:
    array, dtype = np.asarray(item), np.dtype(tensor.dtype)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise TypeError(f"values are {array.dtype}")
    _check_shape(array.shape, tensor.shape)
    result = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(result, array):
        raise ValueError(f"the value {array[result != array].flat[0]} is out of range")
    return result


def _as_stored(flat: Array) -> NDArray[np.float32] | NDArray[np.int64]:
    if flat.dtype.kind == "f":
        return flat.astype(np.float32)
    return flat.view(np.int64) if flat.dtype == np.uint64 else flat.astype(np.int64)


def _check_shape(got: Shape, wanted: Shape) -> None:
    if len(got) != len(wanted) or any(w is not None and g != w for g, w in zip(got, wanted, strict=True)):
        raise ValueError(f"one item has shape {got}")


def _numbers(stored: Mapping[str, Value], key: str, dtype: Any) -> Array:
    values = stored.get(key)
    if values is None or (isinstance(values, BytesList) and not values):
        return np.empty(0, dtype)
    if isinstance(values, BytesList) or values.dtype != dtype:
        held = "byte strings" if isinstance(values, BytesList) else values.dtype
        raise TypeError(f"it is stored as {held}, not as {np.dtype(dtype)}")
    return values


def _byte_strings(stored: Mapping[str, Value], key: str, count: int | None) -> Sequence[bytes]:
    items = stored.get(key, ())
    if isinstance(items, np.ndarray):
        raise TypeError(f"it is stored as {items.dtype}, not as byte strings")
    if count is not None and len(items) != count:
        raise ValueError(f"{len(items)} values are stored for {count} items")
    return items


def _batch_shape(count: int, shape: Shape, total: int) -> tuple[int, ...]:
    """(count, *shape) with the one unknown size worked out from `total` values."""
    known = count * math.prod(size for size in shape if size is not None)
    unknown = total // known if known else 0
    return (count, *(unknown if size is None else size for size in shape))


def _item_size(shape: Shape) -> int | None:
    return None if None in shape else math.prod(cast("tuple[int, ...]", shape))


def _is_dynamic(shape: Shape) -> bool:
    return shape.count(None) > 1


def _value_key(tensor: Tensor, key: str) -> str:
    return f"{key}/value" if _is_dynamic(tensor.shape) else key


def _lengths_key(leaf: Leaf, level: int) -> str:
    return f"{leaf.key}/ragged_row_lengths_{level}"

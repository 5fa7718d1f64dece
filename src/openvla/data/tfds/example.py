"""`tf.train.Example` on the wire: parse and serialise without protobuf.

    Example {1: Features}   Features {1: entry}*   entry {1: key, 2: Feature}
    Feature {1: BytesList {1: bytes*} | 2: FloatList {1: float32*} | 3: Int64List {1: varint*}}

A parsed value is float32 (n,), int64 (n,) or `BytesList`, which holds byte ranges of the payload and copies on access:
the ranges tell where in the file each image is. Packed and unpacked numbers are read; packed ones are written, with
keys in sorted order, so that equal examples are equal bytes. Unknown fields are skipped, as protobuf demands.

Source: the protobuf encoding, https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla.errors import DataError


@dataclass(frozen=True)
class BytesList(Sequence[bytes]):
    """A list of byte strings inside a payload; `spans` are their (start, stop) positions in it."""

    payload: bytes
    spans: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        start, stop = self.spans[index]
        return self.payload[start:stop]

    def __iter__(self) -> Iterator[bytes]:
        return (self.payload[start:stop] for start, stop in self.spans)


Value = BytesList | NDArray[np.float32] | NDArray[np.int64]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BYTES, _FLOAT, _INT64 = 1, 2, 3


class _MalformedError(ValueError):
    """The payload breaks the wire format; the message says how, `parse_example` says where."""


def parse_example(payload: bytes, source: str) -> dict[str, Value]:
    """Feature name -> values. An empty feature is an empty BytesList. Raises DataError naming `source`."""
    try:
        return _parse_example(payload)
    except (_MalformedError, UnicodeDecodeError) as error:
        raise DataError(
            f"{source} is not a tf.train.Example: {error}; the file holds something else, or its writer is broken"
        ) from error


def serialize_example(features: Mapping[str, Sequence[bytes] | NDArray[np.float32] | NDArray[np.int64]]) -> bytes:
    """The payload for feature name -> list of bytes, float32 (n,) or int64 (n,); keys in sorted order."""
    entries = (_field(1, key.encode()) + _field(2, _serialize_feature(features[key])) for key in sorted(features))
    return _field(1, b"".join(_field(1, entry) for entry in entries))


def _parse_example(payload: bytes) -> dict[str, Value]:
    features: dict[str, Value] = {}
    for number, start, stop in _messages(payload, 0, len(payload)):
        if number != 1:
            continue
        for entry, entry_start, entry_stop in _messages(payload, start, stop):
            if entry == 1:
                key, value = _parse_entry(payload, entry_start, entry_stop)
                features[key] = value
    return features


def _parse_entry(payload: bytes, start: int, stop: int) -> tuple[str, Value]:
    key, value = "", BytesList(payload, ())
    for number, inner_start, inner_stop in _messages(payload, start, stop):
        if number == 1:
            key = payload[inner_start:inner_stop].decode()
        elif number == 2:
            value = _parse_feature(payload, inner_start, inner_stop)
    return key, value


def _parse_feature(payload: bytes, start: int, stop: int) -> Value:
    value: Value = BytesList(payload, ())
    for kind, inner_start, inner_stop in _messages(payload, start, stop):
        if kind == _BYTES:
            spans = [(a, b) for number, a, b in _messages(payload, inner_start, inner_stop) if number == 1]
            value = BytesList(payload, tuple(spans))
        elif kind == _FLOAT:
            value = _parse_floats(payload, inner_start, inner_stop)
        elif kind == _INT64:
            value = _parse_ints(payload, inner_start, inner_stop)
    return value


def _parse_floats(payload: bytes, start: int, stop: int) -> NDArray[np.float32]:
    parts: list[NDArray[np.float32]] = []
    for number, wire, a, b in _fields(payload, start, stop):
        if number != 1:
            continue
        if wire not in (_LENGTH, _FIXED32) or (b - a) % 4:
            raise _MalformedError(f"a float list at byte {a} has {b - a} bytes, not 4 for each number")
        parts.append(np.frombuffer(payload, "<f4", (b - a) // 4, a))
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _parse_ints(payload: bytes, start: int, stop: int) -> NDArray[np.int64]:
    parts: list[NDArray[np.int64]] = []
    for number, wire, a, b in _fields(payload, start, stop):
        if number != 1:
            continue
        if wire not in (_LENGTH, _VARINT):
            raise _MalformedError(f"an integer list at byte {a} has wire type {wire}, not varint")
        parts.append(_decode_varints(np.frombuffer(payload, np.uint8, b - a, a), a))
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _decode_varints(raw: NDArray[np.uint8], at: int) -> NDArray[np.int64]:
    """Varints, 7 bits a byte, least significant first, high bit set on all but the last byte of a number."""
    last = raw < 0x80
    if last.all():
        return raw.astype(np.int64)
    ends = np.flatnonzero(last)
    if not last[-1] or np.max(np.diff(ends, prepend=-1)) > 10:
        raise _MalformedError(f"an integer in the list at byte {at} does not end within 10 bytes and the list")
    starts = np.concatenate([[0], ends[:-1] + 1])
    shift = 7 * (np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)).astype(np.uint64)
    return np.add.reduceat((raw & 0x7F).astype(np.uint64) << shift, starts).view(np.int64)


def _encode_varints(values: NDArray[np.int64]) -> bytes:
    bits = np.ascontiguousarray(values, np.int64).view(np.uint64)
    if not np.any(bits > 0x7F):
        return bits.astype(np.uint8).tobytes()
    groups = bits[:, None] >> (7 * np.arange(10, dtype=np.uint64))
    more = np.concatenate([groups[:, 1:] != 0, np.zeros((len(bits), 1), bool)], axis=1)
    present = np.concatenate([np.ones((len(bits), 1), bool), more[:, :-1]], axis=1)
    return ((groups & 0x7F).astype(np.uint8) | (more.astype(np.uint8) << 7))[present].tobytes()


def _serialize_feature(values: Sequence[bytes] | NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    if not isinstance(values, np.ndarray):
        return _field(_BYTES, b"".join(_field(1, item) for item in values))
    if values.dtype == np.float32:
        return _field(_FLOAT, _field(1, np.ascontiguousarray(values, "<f4").tobytes()))
    return _field(_INT64, _field(1, _encode_varints(values.astype(np.int64, copy=False))))


def _field(number: int, content: bytes) -> bytes:
    """One length-delimited field."""
    return bytes([number << 3 | _LENGTH]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _messages(payload: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, stop) of each length-delimited field in payload[start:stop]."""
    return ((number, a, b) for number, wire, a, b in _fields(payload, start, stop) if wire == _LENGTH)


def _fields(payload: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, stop) of each field's content in payload[start:stop]."""
    at = start
    while at < stop:
        tag, at = _read_varint(payload, at, stop)
        number, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            length, at = _read_varint(payload, at, stop)
        elif wire == _VARINT:
            length = _read_varint(payload, at, stop)[1] - at
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise _MalformedError(f"wire type {wire} at byte {at} does not exist")
        if at + length > stop:
            raise _MalformedError(f"a field at byte {at} is longer than what contains it")
        yield number, wire, at, at + length
        at += length


def _read_varint(payload: bytes, at: int, stop: int) -> tuple[int, int]:
    """The number at `at` and the position after it."""
    value = shift = 0
    while at < stop and shift < 64:
        byte = payload[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise _MalformedError(f"an integer at byte {at} does not end within 10 bytes and its message")

"""What an encoder beside the camera sends instead of a picture: patch features, cut out of the model at a named place.

    "encoders"    P x C, the joined channels of the encoders; the server projects them
    "projector"   P x D, embeddings of the decoder; the server only decodes

    {"cut": "projector", "fingerprint": hex, "values": uint16 (n, C), "sequence": 7}
    values      bfloat16 as its bits; or int8, with "scales" float32 (n,), one per token
    tokens      with "base": the n places that changed since the message of that sequence number, ascending

A fingerprint names the weights in front of the cut, so that no server decodes what another model saw. The features
are bfloat16 from here on, whatever they travelled as.

Shapes: P patches of all images, C channels at the cut, n <= P tokens of a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError
from openvla.spec import Observation

Encoding = Literal["bf16", "int8"]
MOST_SEQUENCE = 1 << 53
_EXPONENT = 0x7F80


@dataclass(frozen=True)
class Cut:
    """A place where the model may be cut: P tokens of C channels, behind weights of this fingerprint."""

    tokens: int
    channels: int
    fingerprint: str


@dataclass(frozen=True, eq=False)
class EncodedObservation(Observation):
    """An observation whose picture stayed at the camera: `image` is a stand-in.

    features: bfloat16 bits, uint16 (P, C), of the cut named `cut`.
    """

    features: NDArray[np.uint16] = field(default_factory=lambda: np.zeros((0, 0), np.uint16))
    cut: str = ""


@dataclass(frozen=True)
class Packet:
    """The features of one message. values: bfloat16 bits, uint16 (n, C). rows: their places, or None for all."""

    cut: str
    fingerprint: str
    values: NDArray[np.uint16]
    sequence: int
    rows: NDArray[np.int64] | None = None
    base: int | None = None


def write_packet(
    features: NDArray[np.uint16],
    cut: str,
    fingerprint: str,
    encoding: Encoding,
    sequence: int,
    changed: NDArray[np.int64] | None = None,
) -> dict[str, object]:
    """The message for bfloat16 bits (P, C); with `changed`, only of those tokens, on top of message `sequence - 1`."""
    sent = features if changed is None else features[changed]
    message: dict[str, object] = {"cut": cut, "fingerprint": fingerprint, "sequence": sequence, "values": sent}
    if encoding == "int8":
        message["values"], message["scales"] = quantise(from_bf16(sent))
    if changed is not None:
        message |= {"tokens": changed.astype(np.uint16), "base": sequence - 1}
    return message


def read_packet(value: object) -> Packet:
    """The features in a decoded message. Raises InputError for all that is not as the module says."""
    if not isinstance(value, Mapping):
        raise InputError(f"'features' is a {type(value).__name__}, not a map of 'cut', 'fingerprint' and 'values'")
    fields = cast("Mapping[object, Any]", value)
    values, rows = _values(fields), None
    base = None
    if fields.get("tokens") is not None:
        rows, base = _rows(fields["tokens"], len(values)), _whole(fields, "base")
    return Packet(_text(fields, "cut"), _text(fields, "fingerprint"), values, _whole(fields, "sequence"), rows, base)


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even, of finite values."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantise(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 (n, C) and a scale (n,) per token, so that values are about int8 times scale."""
    scales = (np.abs(values).max(1, initial=0.0) / 127).astype(np.float32)
    steps = values / np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scales


def changed_tokens(new: NDArray[np.uint16], old: NDArray[np.uint16], tolerance: float) -> NDArray[np.int64]:
    """Places of the tokens that moved by more than `tolerance` of their length; 0 takes every token that differs."""
    if tolerance == 0:
        return np.flatnonzero((new != old).any(1))
    before = from_bf16(old)
    moved = np.linalg.norm(from_bf16(new) - before, axis=1)
    return np.flatnonzero(moved > tolerance * np.linalg.norm(before, axis=1))


def _values(fields: Mapping[object, Any]) -> NDArray[np.uint16]:
    values = fields.get("values")
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.name not in ("uint16", "int8"):
        shown = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(
            f"the features' 'values' are {shown}; send uint16 (bits of bfloat16) or int8 (tokens, channels)"
        )
    if values.dtype == np.int8:
        values = _scaled(values, fields.get("scales"))
    found: NDArray[np.uint16] = values.astype(np.uint16, copy=False)
    if ((found & _EXPONENT) == _EXPONENT).any():
        raise InputError("the features contain NaN or infinity; check the encoder beside the camera")
    return found


def _scaled(values: NDArray[np.int8], scales: object) -> NDArray[np.uint16]:
    if not isinstance(scales, np.ndarray) or scales.dtype.name != "float32" or scales.shape != values.shape[:1]:
        raise InputError(f"int8 features need 'scales', float32 ({len(values)},), one for each token")
    if not ((scales >= 0) & np.isfinite(scales)).all():
        raise InputError("the features' 'scales' must be finite and from 0; check the encoder beside the camera")
    with np.errstate(over="ignore", invalid="ignore"):
        return to_bf16(values * scales.astype(np.float32)[:, None])


def _rows(tokens: object, count: int) -> NDArray[np.int64]:
    if not isinstance(tokens, np.ndarray) or tokens.dtype.kind not in "iu" or tokens.shape != (count,):
        raise InputError(f"'tokens' must be {count} whole numbers, the places of the features that changed")
    rows = tokens.astype(np.int64)
    if count and (rows[0] < 0 or (np.diff(rows) <= 0).any()):
        raise InputError("'tokens' must be ascending places from 0, each at most once")
    return rows


def _text(fields: Mapping[object, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise InputError(f"the features' {key!r} is missing or no name; send what /metadata says under 'features'")
    return value


def _whole(fields: Mapping[object, Any], key: str) -> int:
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST_SEQUENCE:
        shown = value if isinstance(value, int) else type(value).__name__
        raise InputError(f"the features' {key!r} is {shown}; number the messages of a connection from 0")
    return value

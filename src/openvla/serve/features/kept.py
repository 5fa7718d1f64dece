"""The newest features of every robot, so that it need only send what changed.

What is kept is bounded: the robot that was silent longest is forgotten first and asked to send all again, and so is
one whose message came out of order. Nothing is remembered of a message that was refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError, unknown
from openvla.serve.features.features import Cut, Packet
from openvla.serve.guard.refusals import Refusal, bad_request

RESEND = 409


@dataclass(frozen=True)
class _Frame:
    """What the message of this sequence number left. features: uint16 (P, C)."""

    cut: str
    sequence: int
    features: NDArray[np.uint16]


class Kept:
    """Turns packets into whole features. cuts: by name, where the policy may be cut; none where it takes pictures only.

    All methods belong to one event loop.
    """

    def __init__(self, cuts: Mapping[str, Cut], most_bytes: int) -> None:
        self._cuts = cuts
        self._most_bytes = most_bytes
        self._frames: OrderedDict[str, _Frame] = OrderedDict()
        self._bytes = 0

    def whole(self, packet: Packet, lane: str | None) -> NDArray[np.uint16]:
        """Features uint16 (P, C) for `packet`. lane: whose they are; None where nothing is kept.

        Raises InputError for features that do not fit the policy, Refusal (409) where all tokens must be sent again.
        """
        cut = self._check(packet)
        features = packet.values if packet.rows is None else self._changed(packet, packet.rows, lane)
        if features.shape != (cut.tokens, cut.channels):
            raise InputError(
                f"the features have the shape {features.shape}; behind the {packet.cut} they are ({cut.tokens}, "
                f"{cut.channels})"
            )
        if lane is not None:
            self.forget(lane)
            self._frames[lane] = _Frame(packet.cut, packet.sequence, features)
            self._bytes += features.nbytes
            while self._bytes > self._most_bytes:
                self.forget(next(iter(self._frames)))
        return features

    def forget(self, lane: str) -> None:
        """Its connection is gone."""
        frame = self._frames.pop(lane, None)
        self._bytes -= frame.features.nbytes if frame else 0

    def _check(self, packet: Packet) -> Cut:
        if not self._cuts:
            raise bad_request("this policy takes no features; send 'image'")
        if packet.cut not in self._cuts:
            raise InputError(unknown(packet.cut, self._cuts, "cut"))
        cut = self._cuts[packet.cut]
        if packet.fingerprint != cut.fingerprint:
            raise InputError(
                f"the features come from other weights ({packet.fingerprint[:12]}) than this policy's encoders "
                f"({cut.fingerprint[:12]}); load the edge part of the same checkpoint, or send 'image'"
            )
        if packet.values.shape[1] != cut.channels:
            raise InputError(
                f"the features have {packet.values.shape[1]} channels; behind the {packet.cut} there are {cut.channels}"
            )
        return cut

    def _changed(self, packet: Packet, rows: NDArray[np.int64], lane: str | None) -> NDArray[np.uint16]:
        frame = None if lane is None else self._frames.get(lane)
        if frame is None or frame.cut != packet.cut or frame.sequence != packet.base:
            raise Refusal(
                RESEND, "resend", f"the features before number {packet.sequence} are not here; send all tokens"
            )
        if len(rows) and rows[-1] >= len(frame.features):
            raise InputError(f"'tokens' names the place {rows[-1]}; there are {len(frame.features)}, from 0")
        features = frame.features.copy()
        features[rows] = packet.values
        return features

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openvla.errors import InputError
from openvla.serve.features.features import changed_tokens, from_bf16, quantise, read_packet, to_bf16, write_packet

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(size=(5, 4)).astype(np.float32)
BITS = to_bf16(VALUES)


def packet(**changes: object) -> dict[str, Any]:
    return write_packet(BITS, "projector", "f" * 64, "bf16", 7) | changes


def test_bfloat16_comes_back_bit_by_bit() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    finite = every[(every & 0x7F80) != 0x7F80]
    assert np.array_equal(to_bf16(from_bf16(finite)), finite)


def test_rounding_goes_to_the_nearest_and_ties_to_even() -> None:
    wanted = {1.0: 1.0, 1.00390625: 1.0, 1.01171875: 1.015625, 1.005: 1.0078125, -1.00390625: -1.0}
    assert from_bf16(to_bf16(np.array(list(wanted), np.float32))).tolist() == list(wanted.values())


def test_features_come_back_from_a_message_as_they_were() -> None:
    found = read_packet(packet())
    assert np.array_equal(found.values, BITS)
    assert (found.cut, found.sequence, found.rows, found.base) == ("projector", 7, None, None)


def test_int8_errs_by_at_most_half_a_step_of_each_token() -> None:
    steps, scales = quantise(VALUES)
    assert np.abs(steps * scales[:, None] - VALUES).max(1) == pytest.approx(scales / 2, rel=1.0)
    found = read_packet(write_packet(BITS, "projector", "f", "int8", 0))
    assert np.abs(from_bf16(found.values) - VALUES).max() < 1.3 * scales.max()


def test_a_token_of_zeros_survives_int8() -> None:
    found = read_packet(write_packet(np.zeros((2, 3), np.uint16), "projector", "f", "int8", 0))
    assert not found.values.any()


def test_only_what_moved_is_named() -> None:
    new = BITS.copy()
    new[[1, 3]] = to_bf16(1.05 * from_bf16(BITS[[1, 3]]))
    assert changed_tokens(new, BITS, 0).tolist() == [1, 3]
    assert changed_tokens(new, BITS, 0.02).tolist() == [1, 3]
    assert changed_tokens(new, BITS, 0.1).tolist() == []
    found = read_packet(write_packet(new, "projector", "f", "bf16", 8, np.array([1, 3])))
    assert found.rows is not None
    assert (found.rows.tolist(), found.base, found.values.shape) == ([1, 3], 7, (2, 4))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"values": [[1]]}, "'values' are list; send uint16"),
        ({"values": VALUES}, r"'values' are float32 \(5, 4\); send uint16"),
        ({"values": BITS[0]}, r"'values' are uint16 \(4,\)"),
        ({"values": np.full((2, 2), 0x7F80, np.uint16)}, "contain NaN or infinity"),
        ({"values": np.full((2, 2), 0xFFC1, np.uint16)}, "contain NaN or infinity"),
        ({"values": np.ones((2, 2), np.int8)}, r"need 'scales', float32 \(2,\)"),
        ({"values": np.ones((2, 2), np.int8), "scales": np.ones(3, np.float32)}, "one for each token"),
        ({"values": np.ones((1, 2), np.int8), "scales": np.array([-1], np.float32)}, "finite and from 0"),
        ({"values": np.ones((1, 2), np.int8), "scales": np.array([np.nan], np.float32)}, "finite and from 0"),
        ({"values": np.full((1, 2), 99, np.int8), "scales": np.array([3e38], np.float32)}, "NaN or infinity"),
        ({"cut": None}, "'cut' is missing or no name"),
        ({"cut": "x" * 65}, "'cut' is missing or no name"),
        ({"fingerprint": 3}, "'fingerprint' is missing or no name"),
        ({"sequence": -1}, "'sequence' is -1; number the messages"),
        ({"sequence": True}, "'sequence' is True; number the messages"),
        ({"tokens": np.arange(5)}, "'base' is NoneType; number the messages"),
        ({"tokens": np.arange(4)}, "'tokens' must be 5 whole numbers"),
        ({"tokens": [0, 1, 2, 3, 4]}, "'tokens' must be 5 whole numbers"),
        ({"tokens": np.array([0, 1, 1, 2, 3])}, "ascending places from 0"),
        ({"tokens": np.arange(-1, 4)}, "ascending places from 0"),
    ],
)
def test_what_no_encoder_would_send_is_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_packet(packet(**changes))


def test_features_that_are_no_map_are_refused() -> None:
    with pytest.raises(InputError, match="'features' is a list, not a map"):
        read_packet([1])

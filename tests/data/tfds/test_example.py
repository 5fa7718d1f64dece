from __future__ import annotations

import contextlib

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from openvla.data.tfds.example import BytesList, parse_example, serialize_example
from openvla.errors import DataError

EXTREMES = np.array([0, 1, 127, 128, 300, 16383, 16384, 2**31, 2**63 - 1, -1, -(2**63)], np.int64)
FEATURES = {
    "b/bytes": [b"", b"a\0\0", b"x" * 300],
    "a/floats": np.array([0.0, -1.5, np.inf, 1e-40], np.float32),
    "ints": EXTREMES,
    "no bytes": [],
    "no ints": np.empty(0, np.int64),
    "größe": np.array([5, 6], np.int64),
}


def plain(value: object) -> list[object]:
    return list(value) if isinstance(value, BytesList) else value.tolist()  # type: ignore[attr-defined]


def test_what_is_serialised_is_parsed_back() -> None:
    parsed = parse_example(serialize_example(FEATURES), "test")
    assert {key: plain(value) for key, value in parsed.items()} == {key: list(v) for key, v in FEATURES.items()}


def test_protobuf_reads_what_is_serialised() -> None:
    example = tf_example_pb2.Example.FromString(serialize_example(FEATURES))
    fields = example.features.feature
    assert list(fields["b/bytes"].bytes_list.value) == FEATURES["b/bytes"]
    assert list(fields["a/floats"].float_list.value) == FEATURES["a/floats"].tolist()  # type: ignore[union-attr]
    assert list(fields["ints"].int64_list.value) == EXTREMES.tolist()
    assert fields["no ints"].WhichOneof("kind") == "int64_list"


def test_what_protobuf_writes_is_parsed() -> None:
    example = tf_example_pb2.Example()
    random = np.random.default_rng(0)
    ints = (random.integers(-(2**62), 2**62, 500) >> random.integers(0, 62, 500)).tolist()
    example.features.feature["i"].int64_list.value.extend(ints)
    example.features.feature["f"].float_list.value.extend([0.5, 2.0])
    example.features.feature["b"].bytes_list.value.extend([b"q"])
    example.features.feature["unset"].SetInParent()
    parsed = parse_example(example.SerializeToString(), "test")
    assert {key: plain(value) for key, value in parsed.items()} == {
        "i": ints,
        "f": [0.5, 2.0],
        "b": [b"q"],
        "unset": [],
    }


def test_equal_examples_are_equal_bytes_whatever_the_order_of_keys() -> None:
    assert serialize_example(FEATURES) == serialize_example(dict(reversed(FEATURES.items())))


def field(number: int, wire: int, content: bytes) -> bytes:
    return bytes([number << 3 | wire]) + (bytes([len(content)]) if wire == 2 else b"") + content


def example_of(feature: bytes) -> bytes:
    return field(1, 2, field(1, 2, field(1, 2, b"k") + field(2, 2, feature)))


def test_unpacked_numbers_are_parsed() -> None:
    ints = field(1, 0, b"\x05") + field(1, 0, b"\xac\x02") + field(1, 2, b"\x07\x08")
    assert plain(parse_example(example_of(field(3, 2, ints)), "test")["k"]) == [5, 300, 7, 8]
    floats = field(1, 5, np.float32(1.5).tobytes()) + field(1, 2, np.float32([2, 3]).tobytes())
    assert plain(parse_example(example_of(field(2, 2, floats)), "test")["k"]) == [1.5, 2.0, 3.0]


def test_unknown_fields_are_skipped() -> None:
    noise = field(7, 0, b"\x81\x01") + field(8, 1, b"12345678") + field(9, 5, b"1234") + field(10, 2, b"abc")
    feature = noise + field(3, 2, noise + field(1, 0, b"\x05") + noise) + noise
    payload = noise + example_of(feature) + noise
    assert plain(parse_example(payload, "test")["k"]) == [5]


def test_the_spans_of_a_byte_string_are_its_place_in_the_payload() -> None:
    payload = serialize_example({"image": [b"JPEG1", b"JPEG22"]})
    images = parse_example(payload, "test")["image"]
    assert isinstance(images, BytesList)
    assert [payload[start:stop] for start, stop in images.spans] == [b"JPEG1", b"JPEG22"]
    assert images[1] == b"JPEG22"
    assert len(images) == 2


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (b"\x0a\x05\x01", "a field at byte 2 is longer than what contains it"),
        (b"\x0b", "wire type 3 at byte 1 does not exist"),
        (b"\x80" * 11, "does not end within 10 bytes"),
        (b"\x0a", "does not end within 10 bytes"),
        (example_of(field(2, 2, field(1, 2, b"123"))), "a float list at byte .* has 3 bytes, not 4 for each number"),
        (example_of(field(3, 2, field(1, 2, b"\x80"))), "an integer in the list at byte"),
        (example_of(field(3, 2, field(1, 2, b"\xff" * 10 + b"\1"))), "an integer in the list at byte"),
        (example_of(field(3, 2, field(1, 5, b"1234"))), "an integer list at byte .* has wire type 5"),
        (field(1, 2, field(1, 2, field(1, 2, b"\xff"))), "invalid start byte"),
    ],
)
def test_a_malformed_payload_is_a_data_error_that_names_its_place(payload: bytes, match: str) -> None:
    with pytest.raises(DataError, match=f"x: record 3 at byte 9 is not a tf.train.Example: .*{match}"):
        parse_example(payload, "x: record 3 at byte 9")


def test_every_flip_and_every_truncation_parses_or_is_a_data_error() -> None:
    payload = serialize_example(FEATURES)
    for at in range(len(payload)):
        for damaged in (
            payload[:at],
            *(payload[:at] + bytes([payload[at] ^ bit]) + payload[at + 1 :] for bit in (1, 4, 128)),
        ):
            with contextlib.suppress(DataError):
                parse_example(damaged, "test")

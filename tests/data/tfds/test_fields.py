from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from openvla.data.tfds.example import parse_example, serialize_example
from openvla.data.tfds.features import Image, Leaf, LeafFeature, Tensor, Text
from openvla.data.tfds.fields import decode_metadata, decode_steps, encode_leaf, objects
from openvla.errors import DataError

CLOCK = Leaf("clock", "steps/clock", Tensor((), "int64"), 1)
STEPS = 4


def leaf(feature: LeafFeature, depth: int = 1) -> Leaf:
    return Leaf("x", "steps/x", feature, depth)


def decode(feature: LeafFeature, features: dict[str, Any], depth: int = 1) -> Any:
    """The leaf x of an episode of four steps."""
    payload = serialize_example({"steps/clock": np.arange(STEPS), **features})
    return decode_steps([CLOCK, leaf(feature, depth)], parse_example(payload, "test"), "file: record 0")["x"]


def round_trip(feature: LeafFeature, values: Any, depth: int = 1) -> Any:
    return decode(feature, dict(encode_leaf(leaf(feature, depth), values, "test")), depth)


@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "int64", "uint64", "float16", "float32"])
def test_tensors_of_every_kind_survive_a_round_trip(dtype: str, shape: tuple[int, ...], encoding: str) -> None:
    bits = np.random.default_rng(0).integers(0, 2**64, (STEPS, *shape), dtype=np.uint64)
    array = (bits / 2**60).astype(dtype) if dtype.startswith("float") else bits.astype(dtype)
    result = round_trip(Tensor(shape, dtype, encoding), array)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


def test_float64_is_stored_as_float32_unless_as_bytes() -> None:
    array = np.full(STEPS, 0.1)
    assert round_trip(Tensor((), "float64"), array).tolist() == [float(np.float32(0.1))] * STEPS
    assert round_trip(Tensor((), "float64", "zlib"), array).tolist() == [0.1] * STEPS


def test_bools_and_integers_are_stored_as_int64_and_uint64_by_its_bits() -> None:
    flags = encode_leaf(leaf(Tensor((), "bool")), np.array([True, False]), "test")["steps/x"]
    assert (np.asarray(flags).dtype, list(flags)) == (np.int64, [1, 0])
    large = encode_leaf(leaf(Tensor((), "uint64")), np.array([2**64 - 1], np.uint64), "test")["steps/x"]
    assert list(large) == [-1]


def test_one_unknown_size_is_worked_out() -> None:
    array = np.arange(STEPS * 6.0, dtype=np.float32).reshape(STEPS, 2, 3)
    for shape in ((None, 3), (2, None)):
        np.testing.assert_array_equal(round_trip(Tensor(shape), array), array)


@pytest.mark.parametrize("encoding", ["bytes", "zlib"])
@pytest.mark.parametrize("shape", [(None,), (None, 2), (None, None)])
def test_items_of_different_sizes_become_an_object_array(shape: tuple[int | None, ...], encoding: str) -> None:
    items = [np.full((n, *[2] * (len(shape) - 1)), n, np.uint16) for n in range(STEPS)]
    result = round_trip(Tensor(shape, "uint16", encoding), items)
    assert result.dtype == object
    for got, wanted in zip(result, items, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def test_two_unknown_sizes_are_stored_beside_the_value() -> None:
    values = encode_leaf(leaf(Tensor((None, None), "uint8", "bytes")), [np.ones((2, 3), np.uint8)], "test")
    assert values["steps/x/value"] == [b"\1" * 6]
    assert list(values["steps/x/shape"]) == [2, 3]


def test_text_images_and_byte_strings_survive_a_round_trip() -> None:
    assert round_trip(Text(), ["put", "größe", "", "a\0"]).tolist() == ["put", "größe", "", "a\0"]
    assert round_trip(Image(), [b"\xff\xd8", b"", b"\0\0", b"x"]).tolist() == [b"\xff\xd8", b"", b"\0\0", b"x"]
    strings = np.array([[b"a", b""]] * STEPS, object)
    assert round_trip(Tensor((2,), "string"), strings).tolist() == strings.tolist()


def test_a_sequence_inside_a_step_is_ragged() -> None:
    boxes = [np.full((n, 2), n, np.float32) for n in (2, 0, 1, 3)]
    result = round_trip(Tensor((2,)), boxes, depth=2)
    assert [len(row) for row in result] == [2, 0, 1, 3]
    for got, wanted in zip(result, boxes, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_sequences_of_sequences_keep_their_nesting() -> None:
    words = [[["a"], []], [], [["b", "c"]], [["d"], ["e", "f"]]]
    features = encode_leaf(leaf(Text(), 3), words, "test")
    assert list(features["steps/x/ragged_row_lengths_0"]) == [2, 0, 1, 2]
    assert list(features["steps/x/ragged_row_lengths_1"]) == [1, 0, 2, 1, 2]
    assert features["steps/x/ragged_flat_values"] == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert [[list(inner) for inner in row] for row in round_trip(Text(), words, 3)] == words


def test_metadata_is_plain_values() -> None:
    leaves = [
        Leaf("task", "m/task", Text(), 0),
        Leaf("seed", "m/seed", Tensor((), "int64"), 0),
        Leaf("ok", "m/ok", Tensor((), "bool"), 0),
        Leaf("camera", "m/camera", Tensor((2,)), 0),
        Leaf("tags", "m/tags", Text(), 1),
    ]
    values = {"task": "open", "seed": -3, "ok": True, "camera": np.float32([1, 2]), "tags": ["a", "b"]}
    features = {k: v for each in leaves for k, v in encode_leaf(each, values[each.name], "test").items()}
    result = decode_metadata(leaves, parse_example(serialize_example(features), "test"), "test")
    assert (result["task"], result["seed"], result["ok"]) == ("open", -3, True)
    assert type(result["seed"]) is int
    assert result["camera"].tolist() == [1, 2]
    assert result["tags"].tolist() == ["a", "b"]


FLOATS = np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("feature", "features", "match"),
    [
        (Tensor((2,)), {"steps/x": FLOATS[:6]}, "has 3 steps where others have 4"),
        (Tensor((2,)), {}, "has 0 steps where others have 4"),
        (Tensor((3,)), {"steps/x": FLOATS}, "8 values are no whole number of items of 3"),
        (Tensor((2,), "int32"), {"steps/x": FLOATS}, "it is stored as float32, not as int64"),
        (Tensor((2,)), {"steps/x": [b""] * 8}, "it is stored as byte strings, not as float32"),
        (Tensor((None,)), {"steps/x": FLOATS[:6]}, "cannot reshape array of size 6"),
        (Text(), {"steps/x": FLOATS[:4]}, "it is stored as float32, not as byte strings"),
        (Text(), {"steps/x": [b"\xff"] * 4}, "invalid start byte"),
        (Tensor((2,), "uint8", "bytes"), {"steps/x": [b"abc"] * 4}, "cannot reshape array of size 3"),
        (Tensor((), "float32", "bytes"), {"steps/x": [b"abc"] * 4}, "buffer size must be a multiple"),
        (Tensor((2,), "uint8", "zlib"), {"steps/x": [b"abc"] * 4}, "incorrect header check"),
        (Tensor((None, None), "uint8", "bytes"), {"steps/x/value": [b"abc"] * 4}, "cannot reshape array of size 0"),
    ],
)
def test_values_that_do_not_fit_the_description_are_named(feature: Any, features: Any, match: str) -> None:
    with pytest.raises(DataError, match=f"file: record 0: 'x' .*{match}"):
        decode(feature, features)


def test_row_lengths_that_do_not_add_up_are_refused() -> None:
    for lengths in ([1, 1, 1, 0], [5, -1, 0, 0]):
        features = {"steps/x/ragged_flat_values": FLOATS[:4], "steps/x/ragged_row_lengths_0": np.array(lengths)}
        with pytest.raises(DataError, match="do not add up to 4 values"):
            decode(Tensor(()), features, depth=2)


@pytest.mark.parametrize(
    ("feature", "values", "match"),
    [
        (Tensor((2,)), np.zeros((4, 3)), r"one item has shape \(3,\)"),
        (Tensor((2,), "uint8"), np.zeros((4, 2)), "values are float64"),
        (Tensor((), "int8"), np.array([3, 200]), "the value 200 is out of range"),
        (Text(), [b"bytes"], "it must hold str, not bytes"),
        (Image(), ["text"], "it must hold bytes, not str"),
        (Text(), ["\udc80"], "surrogates not allowed"),
    ],
)
def test_values_that_cannot_be_stored_are_named(feature: Any, values: Any, match: str) -> None:
    with pytest.raises(DataError, match=f"test: 'x' does not fit its description .*{match}"):
        encode_leaf(leaf(feature), values, "test")


def test_an_episode_without_steps_is_empty_everywhere() -> None:
    leaves = [leaf(Tensor((2,), "int8", "zlib")), Leaf("y", "steps/y", Tensor((3,)), 1), CLOCK]
    result = decode_steps(leaves, {}, "test")
    assert {name: array.shape for name, array in result.items()} == {"x": (0, 2), "y": (0, 3), "clock": (0,)}


def test_objects_keeps_equally_long_items_apart() -> None:
    assert objects([[1, 2], [3, 4]]).shape == (2,)


def test_compressed_content_is_little_endian() -> None:
    content = encode_leaf(leaf(Tensor((2,), "int16", "zlib")), np.array([[1, 256]], np.int16), "test")
    assert zlib.decompress(content["steps/x"][0]) == b"\1\0\0\1"

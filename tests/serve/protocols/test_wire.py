from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from openvla.errors import InputError
from openvla.serve.protocols.wire import dumps, loads


@pytest.mark.parametrize("dtype", ["|u1", "<f8", "<f4", ">i2", "<i8", "|b1", "<f2"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_arrays_survive_with_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    again = loads(dumps({"deep": [array]}))["deep"][0]
    assert again.dtype == array.dtype
    assert again.shape == shape
    assert np.array_equal(again, array)


def test_an_array_is_written_as_the_published_server_reads_it() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    message = json.loads(dumps({"image": image[:, ::-1], "instruction": "wave", "n": np.float64(0.5)}))
    flipped = base64.b64encode(image[:, ::-1].tobytes()).decode()
    assert message["image"] == {"__numpy__": flipped, "dtype": "|u1", "shape": [2, 2, 3]}
    assert message["instruction"] == "wave"


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([None]), np.array(["2020"], "M8[Y]")])
def test_only_numbers_travel(value: object) -> None:
    with pytest.raises(InputError, match=r"arrays of dtype .* do not travel; send numbers or booleans"):
        dumps(value)


def test_other_objects_do_not_travel() -> None:
    with pytest.raises(InputError, match="a message cannot hold a set; convert it to a numpy array"):
        dumps({1})


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ({"__numpy__": "AAAA", "dtype": "|u1"}, "an array in the message is malformed; it needs"),
        ({"__numpy__": "?", "dtype": "|u1", "shape": [3]}, "an array in the message is malformed"),
        ({"__numpy__": 3, "dtype": "|u1", "shape": [3]}, "an array in the message is malformed"),
        ({"__numpy__": "AAAA", "dtype": "nope", "shape": [3]}, "arrays of dtype 'nope' do not travel"),
        ({"__numpy__": "AAAA", "dtype": "|i3", "shape": [1]}, r"arrays of dtype '\|i3' do not travel"),
        ({"__numpy__": "AAAA", "dtype": "|f1", "shape": [3]}, r"arrays of dtype '\|f1' do not travel"),
        ({"__numpy__": "AAAA", "dtype": "(2,)u1", "shape": [1]}, r"arrays of dtype '\(2,\)u1' do not travel"),
        ({"__numpy__": "AAAA", "dtype": 7, "shape": [3]}, "an array in the message is malformed"),
        ({"__numpy__": "AAAA", "dtype": "|u1", "shape": 3}, "an array in the message is malformed"),
        ({"__numpy__": "AAAA", "dtype": "|O", "shape": [1]}, r"arrays of dtype '\|O' do not travel"),
        ({"__numpy__": "AAAA", "dtype": "|u1", "shape": [4]}, r"has 3 bytes, but shape \[4\] of uint8 does not take"),
        ({"__numpy__": "AAAA", "dtype": "|u1", "shape": [-1]}, r"has the shape \[-1\]; give whole numbers from 0"),
        ({"__numpy__": "AAAA", "dtype": "|u1", "shape": ["3"]}, r"has the shape \['3'\]; give whole numbers"),
        ({"__numpy__": "AAAA", "dtype": "|u1", "shape": [True, 3]}, r"has the shape \[True, 3\]; give whole"),
        ({"__numpy__": "AAAA", "dtype": "|u1", "shape": [1] * 40 + [3]}, "give whole numbers from 0"),
    ],
)
def test_a_damaged_array_is_refused(array: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loads(json.dumps({"image": array}))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", "nonsense"])
def test_what_is_no_json_is_refused(data: bytes | str) -> None:
    with pytest.raises(InputError, match=r"the message is not JSON .*; send the published /act format"):
        loads(data)


def test_absurd_nesting_and_absurd_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="the message is not JSON"):
        loads(100_000 * "[")
    for shape in ([0, 10**30], [0, 2**62, 2**62]):
        with pytest.raises(InputError, match="which no array has"):
            loads(json.dumps({"__numpy__": "", "dtype": "|u1", "shape": shape}))

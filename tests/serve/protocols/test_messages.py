from __future__ import annotations

import base64

import msgpack
import numpy as np
import pytest
from serving import IMAGE, jpeg

from openvla.errors import InputError
from openvla.serve.guard.limits import Limits
from openvla.serve.guard.refusals import Refusal
from openvla.serve.protocols.messages import read_request
from openvla.serve.protocols.packing import pack, unpack

GOOD = {"image": IMAGE, "instruction": "go"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_may_be_a_file_in_any_wrapping(kind: str) -> None:
    image = np.full((6, 5, 3), 90, np.uint8)
    file = jpeg(image, kind)
    text = base64.b64encode(file).decode()
    for value in (file, text, f"data:image/png;base64,{text}", np.frombuffer(file, np.uint8)):
        pixels = read_request(GOOD | {"image": value}, Limits()).observation.image
        assert np.abs(pixels.astype(int) - image).max() <= 2


def test_all_that_a_robot_may_say_is_read() -> None:
    request = read_request(
        GOOD
        | {"unnorm_key": "bridge", "robot": "arm 1", "captured_at": 12.5, "deadline_ms": 250, "newest": True}
        | {"proprio": [1, 2.5], "extra_images": {"wrist": IMAGE[:2]}},
        Limits(),
    )
    assert (request.statistics, request.robot, request.captured_at) == ("bridge", "arm 1", 12.5)
    assert (request.deadline_s, request.newest) == (0.25, True)
    assert request.observation.proprio is not None
    assert request.observation.proprio.tolist() == [1.0, 2.5]
    assert request.observation.extra_images["wrist"].shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "'image' is a NoneType; send an array, or the bytes"),
        ({"image": 7}, "'image' is a int; send an array"),
        ({"image": b"GIF89a"}, "'image' cannot be decoded; send an RGB JPEG or PNG file"),
        ({"image": "not base64!"}, "'image' is text, but not a JPEG or PNG file in base64"),
        ({"image": IMAGE.astype(float)}, "image has dtype float64, not a uint8 RGB array"),
        ({"image": jpeg(IMAGE[..., 0], "PNG")}, r"image has shape \(3, 3\), not .* \(grayscale"),
        ({"instruction": 7}, "'instruction' is a int; say in words"),
        ({"instruction": " "}, "the instruction is empty"),
        ({"robot": "x" * 65}, "'robot' is .* give a name of at most 64 characters"),
        ({"unnorm_key": ""}, "'unnorm_key' is ''; give a name"),
        ({"captured_at": float("nan")}, "'captured_at' is 'nan'; give a finite number"),
        ({"deadline_ms": 10**400}, "'deadline_ms' is .*; give a finite number"),
        ({"deadline_ms": 0}, "deadline_ms is 0; give the milliseconds from now, above 0"),
        ({"proprio": "fast"}, "'proprio' is not an array of numbers"),
        ({"proprio": [float("inf")]}, "proprio contains NaN or infinity"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_request(GOOD | change, Limits())


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="the message has no 'image'"):
        read_request({"instruction": "go"}, Limits())
    with pytest.raises(InputError, match="the message has no 'instruction'"):
        read_request({"image": IMAGE}, Limits())
    with pytest.raises(InputError, match="the message is a list, not a map"):
        read_request([], Limits())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(image_pixels=8), "'image' has 9 pixels, but at most 8 are taken"),
        (Limits(image_pixels=12), "'wrist_image' has 9 pixels, but at most 3 are taken"),
        (Limits(instruction_chars=1), "'instruction' has 2 characters, but at most 1"),
        (Limits(images=1), "the message has 2 images, but at most 1"),
        (Limits(proprio_values=2), "'proprio' has 3 values, but at most 2"),
    ],
)
def test_what_is_too_large_is_refused(limits: Limits, message: str) -> None:
    for image in (IMAGE, jpeg(IMAGE, "PNG")):
        with pytest.raises(Refusal, match=message) as refused:
            read_request({"image": image, "instruction": "go", "wrist_image": image, "proprio": [1, 2, 3]}, limits)
        assert refused.value.status == 413


@pytest.mark.parametrize("dialect", ["openpi", "vla-eval"])
def test_messages_survive_both_dialects(dialect: str) -> None:
    message = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": ["x", np.zeros(0)], "c": np.float64(0.5)}
    again = unpack(pack(message, dialect))
    assert np.array_equal(again["a"], message["a"])
    assert again["a"].dtype == np.float32
    assert again["b"][1].shape == (0,)
    assert float(again["c"]) == 0.5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the message is not msgpack"),
        (b"\xc1", "the message is not msgpack"),
        (b"\x91" * 100_000, "the message is not msgpack"),
        (msgpack.packb({"__ndarray__": True}), "an array in the message is malformed; it needs 'data'"),
        (
            msgpack.packb({"__ndarray__": True, "data": b"a", "dtype": "|O", "shape": [1]}),
            r"arrays of dtype '\|O' do not travel",
        ),
        (
            msgpack.packb({b"__ndarray__": True, b"data": b"a", b"dtype": "|u1", b"shape": [2**40]}),
            "has 1 bytes, but shape",
        ),
        (msgpack.packb({"__image__": True, "format": "png"}), "malformed"),
        (msgpack.packb({b"__npgeneric__": True, b"data": []}), "malformed"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        unpack(data)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest

from openvla.data.bad import BadData
from openvla.data.conversion.convert import Conversion, convert
from openvla.data.doctor.examine import diagnose
from openvla.data.formats.aloha import AlohaSource
from openvla.data.formats.detect import detect, open_dataset, open_source
from openvla.data.images.pixels import decode_image, encode_image
from openvla.data.tfds.features import Image
from openvla.errors import DataError

STEPS = 4
CAMERAS = ("cam_low", "cam_high")
Change = Callable[[Any], None]


def pixels(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(cameras, T, H, W, 3)."""
    return np.random.default_rng(number).integers(0, 256, (2, STEPS, 16, 24, 3), np.uint8)


def write(path: Path, number: int, compressed: bool) -> None:
    """One episode as ALOHA's recorder writes it; the cameras are not in alphabetical order, as there."""
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file.attrs["compress"] = compressed
        file["action"] = np.full((STEPS, 14), number, np.float64)
        for name in ("qpos", "qvel", "effort"):
            file[f"observations/{name}"] = np.full((STEPS, 14), 0.5 + number)
        lengths = np.zeros((2, STEPS), np.float32)
        for row, (camera, images) in enumerate(zip(CAMERAS, pixels(number), strict=True)):
            if not compressed:
                file[f"observations/images/{camera}"] = images
                continue
            encoded = [encode_image(image, "jpeg", "x") for image in images]
            lengths[row] = [len(each) for each in encoded]
            padded = [np.frombuffer(each.ljust(3000, b"\0"), np.uint8) for each in encoded]
            file[f"observations/images/{camera}"] = np.stack(padded)
        if compressed:
            file["compress_len"] = lengths


@pytest.fixture(params=[False, True], ids=["raw", "compressed"])
def aloha(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    place = tmp_path / "aloha_static_cups"
    place.mkdir()
    for number in (0, 1, 2, 10):
        write(place / f"episode_{number}.hdf5", number, request.param)
    return place


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    place = tmp_path / "cups"
    place.mkdir()
    for number in range(3):
        write(place / f"episode_{number}.hdf5", number, compressed=True)
    return place


def change(path: Path, how: Change) -> None:
    with h5py.File(path, "a") as file:
        how(file)


def test_episodes_are_told_by_their_content_and_come_in_the_order_of_their_numbers(aloha: Path) -> None:
    assert detect(aloha) == "hdf5"
    source = open_source(aloha)
    assert isinstance(source, AlohaSource)
    assert (source.name, dict(source.splits)) == ("aloha_static_cups", {"train": 4})
    assert [episode.steps["action"][0, 0] for episode in source.episodes()] == [0, 1, 2, 10]
    assert [episode.metadata["file"] for episode in source.episodes("train[3:]")] == ["episode_10.hdf5"]


def test_two_arms_are_taken_as_they_are(aloha: Path) -> None:
    episode = next(open_dataset(aloha, split="train[1:2]"))
    assert episode.steps["action"].shape == (STEPS, 14)
    assert episode.steps["action"].dtype == np.float32
    assert set(episode.steps) == {
        "action", "observation|qpos", "observation|qvel", "observation|effort", "observation|cam_low",
        "observation|cam_high", "language_instruction",
    }  # fmt: skip
    assert np.all(episode.steps["observation|qpos"] == 1.5)


def test_images_are_the_pixels_or_the_jpegs_of_the_file(aloha: Path) -> None:
    for number, episode in zip((0, 1), open_dataset(aloha), strict=False):
        for camera, images in zip(CAMERAS, pixels(number), strict=True):
            key = f"observation|{camera}"
            jpeg = cast("Image", episode.features.steps[key].feature).format == "jpeg"
            wanted = decode_image(encode_image(images[2], "jpeg", "x"), "x") if jpeg else images[2]
            assert np.array_equal(episode.image(key, 2), wanted)


def test_compressed_images_are_passed_on_without_the_zeros_behind_them(compressed: Path) -> None:
    episode = next(open_dataset(compressed))
    assert list(episode.steps["observation|cam_high"]) == [encode_image(x, "jpeg", "x") for x in pixels(0)[1]]


@pytest.mark.parametrize("name", ["language_instruction", "task"])
def test_the_words_are_an_attribute_or_a_text(compressed: Path, name: str) -> None:
    change(compressed / "episode_0.hdf5", lambda file: file.attrs.update({name: "stack the cups"}))
    change(compressed / "episode_1.hdf5", lambda file: file.create_dataset("language_raw", data="fold it"))
    said = [episode.steps["language_instruction"][0] for episode in open_dataset(compressed)]
    assert said == ["stack the cups", "fold it", ""]


def test_a_conversion_is_lossless_and_the_doctor_reads_it(aloha: Path, tmp_path: Path) -> None:
    for target in ("rlds", "lerobot"):
        done = convert(open_source(aloha), tmp_path / target, Conversion(target, fps=50))
        assert (done.splits, done.steps) == ({"train": 4}, 16)
        assert done.comparison.to_dict()["bit_equal_values"]["action"] == 4 * STEPS * 14
    assert diagnose(open_source(aloha)).account.steps == 16


def test_numbers_of_one_byte_beside_the_cameras_are_no_images(compressed: Path) -> None:
    flags = np.eye(STEPS, 3, dtype=np.uint8)
    for path in compressed.iterdir():
        change(path, lambda file: file.create_dataset("observations/flags", data=flags))
    episode = next(open_dataset(compressed))
    assert np.array_equal(episode.steps["observation|flags"], flags)


def test_a_group_is_no_text(compressed: Path) -> None:
    change(compressed / "episode_0.hdf5", lambda file: file.create_group("task"))
    assert next(open_dataset(compressed)).steps["language_instruction"][0] == ""


def no_action(file: Any) -> None:
    del file["action"]


def no_state(file: Any) -> None:
    del file["observations/qpos"]


def no_images(file: Any) -> None:
    del file["observations/images"]


def short_state(file: Any) -> None:
    del file["observations/qpos"]
    file["observations/qpos"] = np.zeros((STEPS - 1, 14))


def flat_action(file: Any) -> None:
    del file["action"]
    file["action"] = np.zeros(STEPS)


def nested_action(file: Any) -> None:
    del file["action"]
    file["action/left"] = np.zeros((STEPS, 7))


def one_array_of_images(file: Any) -> None:
    del file["observations/images"]
    file["observations/images"] = np.zeros((STEPS, 16, 24, 3), np.uint8)


def seven(file: Any) -> None:
    del file["action"]
    file["action"] = np.zeros((STEPS, 7))


def one_camera(file: Any) -> None:
    del file["observations/images/cam_low"]


def short_lengths(file: Any) -> None:
    del file["compress_len"]
    file["compress_len"] = np.zeros((2, 2))


def empty_image(file: Any) -> None:
    file["observations/images/cam_high"][0] = 0


def cut_image(file: Any) -> None:
    file["observations/images/cam_high"][2, 200:] = 0


def not_finite(file: Any) -> None:
    file["action"][1, 3] = np.nan


def no_steps(file: Any) -> None:
    for name in ("action", "observations/qpos", "observations/qvel", "observations/effort"):
        del file[name]
        file[name] = np.zeros((0, 14))
    for camera in CAMERAS:
        del file[f"observations/images/{camera}"]
        file[f"observations/images/{camera}"] = np.zeros((0, 3000), np.uint8)
    del file["compress_len"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (no_action, r"episode_1\.hdf5 has no 'action', it has compress_len, observations, observations/effort"),
        (no_state, r"episode_1\.hdf5 has no 'observations/qpos'"),
        (no_images, r"episode_1\.hdf5 has no 'observations/images'"),
        (short_state, r"episode_1\.hdf5: 'observation\|qpos' has 3 steps where 'action' has 4"),
        (flat_action, r"'action' has shape \(4,\), not one row of numbers per step"),
        (nested_action, r"'action' has shape None, not one row of numbers per step"),
        (one_array_of_images, r"episode_1\.hdf5: 'observations/images' is no group of cameras"),
        (seven, r"episode_1\.hdf5: 'action' is Tensor.* in the first demonstration Tensor"),
        (one_camera, r"episode_1\.hdf5 and the first demonstration differ in 'observation\|cam_low'"),
        (short_lengths, r"'compress_len' has shape \(2, 2\), not \(cameras, 4 steps\)"),
        (empty_image, r"'observation\|cam_high' at step 0 is an empty string"),
        (cut_image, r"'observation\|cam_high' at step 2 is 200 bytes long, 'compress_len' knows"),
        (not_finite, r"episode_1\.hdf5: the action at step 1 is \[.*nan.*\], not all finite"),
        (no_steps, r"episode_1\.hdf5"),
    ],
)
def test_a_bad_episode_is_named_or_skipped(compressed: Path, tmp_path: Path, how: Change, words: str) -> None:
    change(compressed / "episode_1.hdf5", how)
    with pytest.raises(DataError, match=words):
        convert(open_source(compressed), tmp_path / "whole", Conversion("rlds"))
    done = convert(open_source(compressed), tmp_path / "rest", Conversion("rlds"), bad=BadData("skip"))
    assert done.splits == {"train": 2}
    assert len(done.skipped) == 1


@pytest.mark.parametrize("number", [0, 2])
def test_a_file_cut_short_is_named_or_skipped_even_if_it_is_the_first(compressed: Path, number: int) -> None:
    path = compressed / f"episode_{number}.hdf5"
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match=rf"episode_{number}\.hdf5 is no readable HDF5 file"):
        list(open_dataset(compressed))
    bad = BadData("skip")
    assert len(list(open_dataset(compressed, bad=bad))) == 2
    assert len(bad.skipped) == 1


def test_where_no_file_is_whole_the_first_is_named(compressed: Path) -> None:
    for path in compressed.iterdir():
        change(path, no_state)
    with pytest.raises(DataError, match=r"episode_0\.hdf5 has no 'observations/qpos'"):
        _ = open_source(compressed).features

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from openvla.data.bad import BadData
from openvla.data.formats.hdf5 import Hdf5Source
from openvla.errors import DataError


@pytest.fixture
def libero(tmp_path: Path) -> Path:
    """Eleven demonstrations as LIBERO writes them."""
    path = tmp_path / "pick_up_the_bowl_demo.hdf5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Libero", "env_kwargs": {"control_freq": 20}})
        data.attrs["problem_info"] = json.dumps({"language_instruction": '"pick up the bowl"'})
        for n in range(11):
            demo = data.create_group(f"demo_{n}")
            demo.attrs["num_samples"] = 3
            demo["actions"] = np.full((3, 7), n, np.float64)
            demo["rewards"] = np.array([0, 0, 1], np.uint8)
            demo["obs/agentview_rgb"] = random.integers(0, 256, (3, 16, 24, 3), np.uint8)
            demo["obs/ee_states"] = np.full((3, 6), 0.5)
            demo["next_obs/ee_states"] = np.zeros((3, 6))
    return path


def test_demonstrations_come_in_the_order_of_their_numbers(libero):
    source = Hdf5Source(libero)
    episodes = list(source.episodes())
    assert [episode.metadata["demonstration"] for episode in episodes] == [f"demo_{n}" for n in range(11)]
    assert episodes[10].steps["action"].tolist() == [[10] * 7] * 3
    assert episodes[0].steps["action"].dtype == np.float32
    assert set(episodes[0].steps) == {
        "action", "reward", "observation|agentview_rgb", "observation|ee_states", "language_instruction",
    }  # fmt: skip
    assert episodes[0].steps["language_instruction"].tolist() == ["pick up the bowl"] * 3
    assert source.control_hz == 20


def test_images_are_the_pixels_of_the_file(libero):
    episode = next(Hdf5Source(libero).episodes("train[4:5]"))
    with h5py.File(libero) as file:
        expected = file["data/demo_4/obs/agentview_rgb"][2]
    assert np.array_equal(episode.image("observation|agentview_rgb", 2), expected)
    assert np.array_equal(list(episode.images("observation|agentview_rgb"))[2], expected)


def test_masks_are_splits_and_files_of_a_directory_follow_each_other(libero):
    with h5py.File(libero, "a") as file:
        file["mask/train"] = np.array([f"demo_{n}".encode() for n in range(9)])
        file["mask/valid"] = np.array([b"demo_9", b"demo_10"])
    assert Hdf5Source(libero.parent).splits == {"train": 9, "val": 2}


def test_what_an_episode_says_itself_comes_first(libero):
    with h5py.File(libero, "a") as file:
        file["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "open the drawer"})
    assert next(Hdf5Source(libero).episodes("train[1:2]")).steps["language_instruction"][0] == "open the drawer"


def test_a_file_cut_short_is_one_sentence(libero):
    libero.write_bytes(libero.read_bytes()[:3000])
    with pytest.raises(DataError, match="is no readable HDF5 file of demonstrations"):
        list(Hdf5Source(libero).episodes())


def damaged(path: Path, change) -> Hdf5Source:
    with h5py.File(path, "a") as file:
        change(file)
    return Hdf5Source(path)


def no_actions(file):
    del file["data/demo_2/actions"]


def other_length(file):
    del file["data/demo_2/obs/ee_states"]
    file["data/demo_2/obs/ee_states"] = np.zeros((5, 6))


def other_size(file):
    del file["data/demo_2/obs/agentview_rgb"]
    file["data/demo_2/obs/agentview_rgb"] = np.zeros((3, 8, 8, 3), np.uint8)


def other_names(file):
    file["data/demo_2/obs/more"] = np.zeros((3, 2))


def other_count(file):
    file["data/demo_2"].attrs["num_samples"] = 9


def no_steps(file):
    for name in ("actions", "rewards", "obs/agentview_rgb", "obs/ee_states"):
        shape, dtype = file[f"data/demo_2/{name}"].shape, file[f"data/demo_2/{name}"].dtype
        del file[f"data/demo_2/{name}"]
        file[f"data/demo_2/{name}"] = np.zeros((0, *shape[1:]), dtype)
    file["data/demo_2"].attrs["num_samples"] = 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_actions, "data/demo_2 lacks `actions`"),
        (other_length, "'observation.ee_states' is float64 of shape .5, 6., `actions` has 3 steps"),
        (other_size, "'observation.agentview_rgb' is Image.* in the first demonstration Image"),
        (other_names, "data/demo_2 and the first demonstration differ in 'observation.more'"),
        (other_count, "says num_samples 9 and has 3 actions"),
        (no_steps, "data/demo_2 is an empty episode"),
    ],
)
def test_a_bad_demonstration_is_named_or_skipped(libero, change, words):
    source = damaged(libero, change)
    with pytest.raises(DataError, match=words):
        list(source.episodes())
    bad = BadData("skip")
    assert len(list(source.episodes("train", bad))) == 10
    assert len(bad.skipped) == 1


def test_a_file_of_other_content_says_what_it_has(tmp_path):
    with h5py.File(tmp_path / "x.bin", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(DataError, match="has no group `data` with demonstrations, it has weights"):
        list(Hdf5Source(tmp_path).episodes())

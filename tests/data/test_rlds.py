from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from openvla.data.episode import Episode, build_episode, demonstration_episode
from openvla.data.rlds import read_episodes, write_episodes
from openvla.data.tfds.features import Features, Image, Sequence, Tensor, Text
from openvla.data.tfds.fields import objects
from openvla.data.tfds.tfrecord import read_records
from openvla.errors import DataError


def demonstrations(count: int, steps: int = 3) -> Iterator[Episode]:
    random = np.random.default_rng(0)
    for seed in range(count):
        frames = random.integers(0, 256, (steps, 16, 16, 3), dtype=np.uint8)
        actions, proprio = random.normal(size=(steps, 4)), random.normal(size=(steps, 6))
        yield demonstration_episode(frames, actions, proprio, f"open door {seed}", task="door-open", seed=seed)


def assert_same(a: Episode, b: Episode) -> None:
    assert a.steps.keys() == b.steps.keys()
    assert dict(a.metadata) == dict(b.metadata)
    for name in a.steps:
        assert a.steps[name].dtype == b.steps[name].dtype
        np.testing.assert_array_equal(a.steps[name], b.steps[name])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "door", demonstrations(3))
    assert path == tmp_path / "door" / "1.0.0"
    for directory in (path, path.parent):
        episodes = list(read_episodes(directory))
        for written, read in zip(demonstrations(3), episodes, strict=True):
            assert_same(written, read)
    assert episodes[1].source.startswith(f"{path}/door-train.tfrecord-00000-of-00001: record 1 at byte ")
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "1.0.0",
        "dataset_info.json",
        "door",
        "door-train.tfrecord-00000-of-00001",
        "features.json",
    ]


def test_several_splits_and_shards_keep_the_order(tmp_path: Path) -> None:
    splits = {"train": demonstrations(5), "val": demonstrations(2)}
    path = write_episodes(tmp_path / "2.1.0", splits, name="door", shard_megabytes=0.005)
    shards = [p.name for p in sorted(path.glob("*train*"))]
    assert shards == [f"door-train.tfrecord-{i:05d}-of-{len(shards):05d}" for i in range(len(shards))]
    assert len(shards) > 1
    assert [e.metadata["seed"] for e in read_episodes(path, "train[1:4]")] == [1, 2, 3]
    assert [e.metadata["seed"] for e in read_episodes(path, "all")] == [0, 1, 2, 3, 4, 0, 1]


def test_tensorflow_datasets_reads_what_is_written(tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "door", demonstrations(2), name="metaworld")
    builder = tfds.builder_from_directory(str(path))
    assert builder.info.full_name == "metaworld/1.0.0"
    split = builder.info.splits["train"]
    assert (split.num_examples, split.num_shards) == (2, 1)
    assert split.num_bytes == sum(len(r.payload) for r in read_records(next(path.glob("*tfrecord*"))))
    for written, record in zip(demonstrations(2), read_records(next(path.glob("*tfrecord*"))), strict=True):
        read: Any = builder.info.features.deserialize_example_np(record.payload)
        assert read["episode_metadata"]["seed"] == written.metadata["seed"]
        steps = list(read["steps"])
        assert len(steps) == len(written)
        for t, step in enumerate(steps):
            np.testing.assert_array_equal(step["action"], written.steps["action"][t])
            np.testing.assert_array_equal(step["observation"]["proprio"], written.steps["observation|proprio"][t])
            assert step["is_last"] == written.steps["is_last"][t]
            assert step["language_instruction"].decode() == written.steps["language_instruction"][t]
            difference = step["observation"]["image"].astype(int) - written.image("observation|image", t)
            assert np.abs(difference).mean() < 3  # TFDS decodes with another transform


EVERYTHING = Features(
    {
        "steps": Sequence(
            {
                "observation": {
                    "present/xyz": Tensor((2,), "float64"),
                    "depth": Tensor((2, 3), "uint16", "zlib"),
                    "raw": Tensor((4,), "int8", "bytes"),
                    "image": Image((None, None, 3), "png"),
                },
                "boxes": Sequence({"corner": Tensor((2,), "float32"), "label": Text()}),
                "count": Tensor((), "uint64"),
                "blob": Tensor((), "string"),
            },
            dataset=True,
        ),
        "episode_metadata": {"tags": Sequence(Text())},
    }
)


def everything() -> Episode:
    image = build_episode({"i": np.zeros((2, 4, 4, 3), np.uint8)}, image_format="png").steps["i"]
    return Episode(
        {
            "observation|present/xyz": np.array([[1, 2], [3, 4]], np.float64),
            "observation|depth": np.arange(12, dtype=np.uint16).reshape(2, 2, 3),
            "observation|raw": np.array([[-1, 0, 1, 2], [3, 4, 5, -6]], np.int8),
            "observation|image": image,
            "boxes|corner": objects([np.ones((2, 2), np.float32), np.zeros((1, 2), np.float32)]),
            "boxes|label": objects([objects(["cup", "pot"]), objects(["lid"])]),
            "count": np.array([1, 2**64 - 1], np.uint64),
            "blob": objects([b"\0\1", b""]),
        },
        {"tags": objects(["a", "bc"])},
        "everything",
        EVERYTHING,
    )


def test_tensorflow_datasets_and_this_reader_agree_on_every_encoding(tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "all_kinds", [everything()])
    (ours,) = read_episodes(path)
    (record,) = read_records(next(path.glob("*tfrecord*")))
    theirs: Any = tfds.builder_from_directory(str(path)).info.features.deserialize_example_np(record.payload)
    assert [tag.decode() for tag in theirs["episode_metadata"]["tags"]] == ours.metadata["tags"].tolist()
    for t, step in enumerate(theirs["steps"]):
        for name in ("present/xyz", "depth", "raw"):
            np.testing.assert_array_equal(step["observation"][name], ours.steps[f"observation|{name}"][t])
        np.testing.assert_array_equal(step["observation"]["image"], ours.image("observation|image", t))
        np.testing.assert_array_equal(step["boxes"]["corner"], ours.steps["boxes|corner"][t])
        assert [label.decode() for label in step["boxes"]["label"]] == ours.steps["boxes|label"][t].tolist()
        assert step["blob"] == ours.steps["blob"][t]
        assert step["count"] == ours.steps["count"][t]


def test_every_encoding_survives_a_round_trip(tmp_path: Path) -> None:
    (read,) = read_episodes(write_episodes(tmp_path / "all_kinds", [everything()]))
    written = everything()
    for name in ("observation|present/xyz", "observation|depth", "observation|raw", "count", "blob"):
        np.testing.assert_array_equal(read.steps[name], written.steps[name])
    for t in range(2):
        np.testing.assert_array_equal(read.steps["boxes|corner"][t], written.steps["boxes|corner"][t])
        assert read.steps["boxes|label"][t].tolist() == written.steps["boxes|label"][t].tolist()


def test_the_real_data_set_is_read(shared: Path) -> None:
    episodes = list(read_episodes(shared / "data/bridge_dataset", "train[:95%]"))
    assert len(episodes) == 24
    assert {len(episode) for episode in episodes} == {10}
    first = episodes[0]
    assert first.steps["action"].shape == (10, 7)
    assert first.steps["is_first"].tolist() == [True] + [False] * 9
    assert first.metadata["has_language"] is True
    assert set(first.steps["language_instruction"]) == {"put cup from counter or drying rack into sink"}
    with np.load(shared / "golden/tf_image_golden.npz") as arrays:
        assert first.steps["observation|image_0"][1] == arrays["bridge64_jpeg"].tobytes()
        np.testing.assert_array_equal(first.image("observation|image_0", 1), arrays["bridge64_decoded"])


def test_the_real_data_set_survives_a_round_trip(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/bridge_dataset"
    path = write_episodes(tmp_path / "copy", read_episodes(source), shard_megabytes=1)
    for original, copy in zip(read_episodes(source), read_episodes(path), strict=True):
        assert_same(original, copy)


def test_splits_and_shards_that_do_not_exist_are_refused_before_reading(tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "door", demonstrations(1))
    with pytest.raises(DataError, match="has no split 'val'; it has train"):
        read_episodes(path, "val")
    shard = next(path.glob("*tfrecord*"))
    shard.rename(path / "other.tfrecord")
    with pytest.raises(DataError, match=r"shard door-train\S+ is missing from .*, which has other\.tfrecord; fetch"):
        read_episodes(path)


@pytest.mark.parametrize(
    ("claimed", "match"), [("3", "ends before record 2, dataset_info.json says it holds 3"), ("1", "more than the 1 ")]
)
def test_a_wrong_number_of_episodes_is_refused(tmp_path: Path, claimed: str, match: str) -> None:
    path = write_episodes(tmp_path / "door", demonstrations(2))
    info = json.loads((path / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [claimed]
    (path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=match):
        list(read_episodes(path))


def test_every_flip_and_every_truncation_of_a_shard_is_a_data_error(tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "door", [build_episode({"a": np.arange(n)}, {"n": n}) for n in (2, 3)])
    shard = next(path.glob("*tfrecord*"))
    content = shard.read_bytes()
    for at in range(len(content)):
        for damaged in (content[:at], content[:at] + bytes([content[at] ^ 0x08]) + content[at + 1 :]):
            shard.write_bytes(damaged)
            read: list[Episode] = []
            with pytest.raises(DataError, match=r"door-train\.tfrecord-00000-of-00001.* record [01]"):
                read.extend(read_episodes(path))
            assert [episode.steps["a"].tolist() for episode in read] == [[0, 1], [0, 1, 2]][: len(read)]


def test_a_record_that_does_not_fit_its_description_names_record_and_leaf(tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "door", demonstrations(1))
    text = (path / "features.json").read_text()
    (path / "features.json").write_text(text.replace('"4"', '"5"'))
    with pytest.raises(DataError, match=r"record 0 at byte 0: 'action' .*12 values are no whole number of items of 5"):
        list(read_episodes(path))


def test_an_existing_target_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "door", demonstrations(1))
    with pytest.raises(DataError, match=r"door/1\.0\.0 exists already"):
        write_episodes(tmp_path / "door", demonstrations(2))
    assert len(list(read_episodes(path))) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def episodes() -> Iterator[Episode]:
        yield from demonstrations(2)
        raise error

    with pytest.raises(error):
        write_episodes(tmp_path / "deep" / "door", episodes(), shard_megabytes=0.001)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "my-set"}, "'my-set' cannot name a data set"),
        ({"version": "1.0"}, "'1.0' is no version; write three numbers"),
        ({"split": "all"}, "'all' cannot name a split"),
        ({"split": "a/b"}, "'a/b' cannot name a split"),
    ],
)
def test_names_that_others_cannot_read_are_refused(tmp_path: Path, arguments: dict[str, str], match: str) -> None:
    with pytest.raises(DataError, match=match):
        write_episodes(tmp_path / "door", demonstrations(1), **arguments)  # type: ignore[arg-type]


def test_a_directory_name_that_is_no_name_is_made_one(tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "my-set", demonstrations(1))
    assert (path / "my_set-train.tfrecord-00000-of-00001").is_file()


def test_a_split_without_episodes_is_refused(tmp_path: Path) -> None:
    for episodes in ([], {"train": demonstrations(1), "val": []}):
        with pytest.raises(DataError, match="there is no episode to write"):
            write_episodes(tmp_path / "door", episodes)
    assert list(tmp_path.iterdir()) == []


def test_episodes_of_different_kinds_are_refused(tmp_path: Path) -> None:
    odd = build_episode({"action": np.zeros((2, 4))}, source="odd")
    with pytest.raises(DataError, match="odd and the data set's description differ in 'discount', 'is_first'"):
        write_episodes(tmp_path / "door", [*demonstrations(1), odd])
    other = [build_episode({"action": np.zeros((2, n))}, source=f"episode {n}") for n in (4, 5)]
    with pytest.raises(DataError, match=r"episode 5: 'action' does not fit .* one item has shape \(5,\)"):
        write_episodes(tmp_path / "door", other)


def test_an_episode_whose_arrays_differ_in_length_is_refused(tmp_path: Path) -> None:
    episode = build_episode({"a": np.zeros(2), "b": np.zeros(2)}, source="here")
    broken = Episode({"a": np.zeros(2), "b": np.zeros(3)}, {}, "here", episode.features)
    with pytest.raises(DataError, match="here: everything needs one value at every step"):
        write_episodes(tmp_path / "door", [broken])

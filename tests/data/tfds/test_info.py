from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openvla.data.tfds.features import Features, Sequence, Tensor
from openvla.data.tfds.info import DatasetInfo, shard_name, shards_of
from openvla.errors import DataError

FEATURES = Features({"steps": Sequence({"action": Tensor((7,))})})


def dataset(directory: Path, **changes: Any) -> Path:
    directory.mkdir(parents=True)
    split = {"name": "train", "shardLengths": ["10", "15"], "numBytes": "99"}
    info = {"name": "pets", "version": directory.name, "fileFormat": "tfrecord", "splits": [split]}
    (directory / "dataset_info.json").write_text(json.dumps(info | changes))
    (directory / "features.json").write_text(json.dumps(FEATURES.to_json()))
    return directory


def test_a_version_directory_describes_itself(tmp_path: Path) -> None:
    info = DatasetInfo.load(dataset(tmp_path / "1.0.0"))
    assert (info.name, info.version) == ("pets", "1.0.0")
    split = info.splits["train"]
    assert (split.num_episodes, split.shard_lengths, split.num_bytes) == (25, (10, 15), 99)
    assert split.filenames == ("pets-train.tfrecord-00000-of-00002", "pets-train.tfrecord-00001-of-00002")
    assert info.features == FEATURES


def test_the_highest_version_is_taken_by_number(tmp_path: Path) -> None:
    for version in ("0.9.0", "0.10.0"):
        dataset(tmp_path / version)
    (tmp_path / "9.0.0").mkdir()
    (tmp_path / ".1.0.0.tmp").mkdir()
    assert DatasetInfo.load(tmp_path).version == "0.10.0"


def test_a_template_of_its_own_names_the_shards() -> None:
    template = "{SPLIT}/{DATASET}_{SHARD_INDEX}_{NUM_SHARDS}.{FILEFORMAT}"
    assert shard_name(template, "pets", "val", 3, 12) == "val/pets_00003_00012.tfrecord"


@pytest.mark.parametrize(
    ("split", "start", "stop"),
    [
        ("train", 0, 25),
        ("train[:95%]", 0, 24),  # 23.75
        ("train[95%:]", 24, 25),
        ("train[:50%]", 0, 12),  # 12.5 rounds to even
        ("train[10%:30%]", 2, 8),  # 2.5 and 7.5 round to even
        ("train[10:20]", 10, 20),
        ("train[-5:]", 20, 25),
        ("train[:-20%]", 0, 20),
        ("train[20:10]", 20, 20),
    ],
)
def test_a_slice_counts_episodes_with_the_published_rounding(tmp_path: Path, split: str, start: int, stop: int) -> None:
    ((_, episodes),) = DatasetInfo.load(dataset(tmp_path / "1.0.0")).select(split)
    assert (episodes.start, episodes.stop) == (start, stop)


def test_splits_add_up(tmp_path: Path) -> None:
    splits = [{"name": name, "shardLengths": ["4"]} for name in ("train", "val")]
    info = DatasetInfo.load(dataset(tmp_path / "1.0.0", splits=splits))
    assert [(split.name, len(episodes)) for split, episodes in info.select("all")] == [("train", 4), ("val", 4)]
    assert [(split.name, len(episodes)) for split, episodes in info.select("val + train[:1]")] == [
        ("val", 4),
        ("train", 1),
    ]


def test_episodes_are_found_in_their_shards(tmp_path: Path) -> None:
    split = DatasetInfo.load(dataset(tmp_path / "1.0.0")).splits["train"]
    first, second = split.filenames
    assert list(shards_of(split, range(25))) == [(first, 0, 10, 10), (second, 0, 15, 15)]
    assert list(shards_of(split, range(8, 12))) == [(first, 8, 10, 10), (second, 0, 2, 15)]
    assert list(shards_of(split, range(12, 13))) == [(second, 2, 3, 15)]
    assert list(shards_of(split, range(5, 5))) == []


@pytest.mark.parametrize(
    ("split", "match"),
    [
        ("test", "has no split 'test'; it has train"),
        ("train[", r"split 'train\[' cannot be read; write 'train'"),
        ("train[1.5:]", "has a bound '1.5' that is neither"),
        ("train[:1.2.3%]", "has a bound '1.2.3%' that is neither"),
        ("train[:26]", "reaches beyond the 25 episodes of 'train'"),
        ("train[105%:]", "reaches beyond the 25 episodes of 'train'"),
    ],
)
def test_a_split_that_does_not_exist_is_refused(tmp_path: Path, split: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        DatasetInfo.load(dataset(tmp_path / "1.0.0")).select(split)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"fileFormat": "array_record"}, "stores 'array_record' files; only tfrecord can be read"),
        ({"splits": None}, "does not describe splits"),
        ({"splits": [{"name": "train"}]}, r"does not describe splits \(KeyError: 'shardLengths'\)"),
        ({"splits": [{"name": "train", "shardLengths": ["x"]}]}, "does not describe splits"),
        ({"splits": [{"name": "t", "shardLengths": ["1"], "filepathTemplate": "{X}"}]}, "does not describe splits"),
        ({"splits": [{"name": "t", "shardLengths": ["1"], "filepathTemplate": "../x"}]}, "'../x' lies outside of the"),
        ({"splits": [{"name": "t", "shardLengths": ["1"], "filepathTemplate": "/x"}]}, "'/x' lies outside of the"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(tmp_path: Path, changes: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        DatasetInfo.load(dataset(tmp_path / "1.0.0", **changes))


def test_a_directory_without_a_data_set_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no directory .*absent"):
        DatasetInfo.load(tmp_path / "absent")
    with pytest.raises(DataError, match=r"is no RLDS data set: no dataset_info\.json .*; it has nothing"):
        DatasetInfo.load(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"it has notes\.txt"):
        DatasetInfo.load(tmp_path)


@pytest.mark.parametrize(("text", "match"), [("{", "is not JSON"), ("[]", "holds a list")])
def test_a_broken_info_file_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = dataset(tmp_path / "1.0.0") / "dataset_info.json"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        DatasetInfo.load(path.parent)

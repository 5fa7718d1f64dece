from __future__ import annotations

import shutil

import numpy as np
import pytest

from openvla.data.bad import BadData
from openvla.data.formats.detect import detect, open_dataset, open_source
from openvla.data.rlds import read_episodes
from openvla.errors import DataError, UsageError


def test_formats_are_told_by_content_not_by_name(shared, tmp_path, toy_data):
    assert detect(shutil.copytree(shared / "data" / "lerobot_v3_image", tmp_path / "rlds.hdf5")) == "lerobot"
    assert detect(toy_data) == "rlds"
    assert detect(toy_data.parent) == "rlds"
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "data.hdf5").write_text("episode,image,instruction,action_x\n")
    assert detect(tmp_path / "csv") == "folder"
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "steps.csv").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert detect(tmp_path / "h") == "hdf5"


def test_an_rlds_set_reads_as_ever(toy_data):
    episodes = list(open_dataset(toy_data, split="train[:50%]"))
    expected = list(read_episodes(toy_data, "train[:50%]"))
    assert len(episodes) == 6
    assert np.array_equal(episodes[3].steps["action"], expected[3].steps["action"])


def test_what_is_no_data_set_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"is no data set: no dataset_info.json \(RLDS\).* it has notes.txt"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="it has other bytes"):
        open_source(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="there is no directory or file"):
        open_source(tmp_path / "none")


def test_an_unknown_format_offers_the_nearest(toy_data):
    with pytest.raises(UsageError, match="unknown format 'lerobt'; did you mean 'lerobot'"):
        open_dataset(toy_data, "lerobt")


def test_damaged_records_of_an_rlds_set_are_skipped_and_counted(toy_data, tmp_path):
    place = shutil.copytree(toy_data, tmp_path / "1.0.0")
    shard = next(place.glob("*tfrecord*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2 + 500] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"record .* is damaged"):
        list(open_dataset(place))
    bad = BadData("skip")
    assert len(list(open_dataset(place, bad=bad))) == 11
    assert len(bad.skipped) == 1
    shard.unlink()
    bad = BadData("skip")
    assert list(open_dataset(place, bad=bad)) == []
    assert "is missing" in bad.skipped[0]


def items():
    for n in range(3):
        yield {
            "observation|image": np.full((2, 8, 8, 3), n, np.uint8),
            "action": np.ones((2, 7)),
            "language_instruction": "go",
        }


def test_an_iterator_gives_episodes():
    first, *_ = episodes = list(open_dataset(items()))
    assert len(episodes) == 3
    assert first.steps["language_instruction"].tolist() == ["go", "go"]
    assert len(list(open_dataset(list(items()), split="train[1:]"))) == 2


def test_a_file_with_a_function_is_an_iterator(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\ndef demos():\n    yield {'action': np.zeros((2, 3)), 'a': np.zeros(2)}\nx = 3\n"
    )
    source = open_source(f"{path}:demos")
    assert source.format == "iterator"
    assert [len(episode) for episode in source.episodes()] == [2]
    with pytest.raises(DataError, match="unknown name 'demo'; did you mean 'demos'"):
        open_source(f"{path}:demo")
    with pytest.raises(DataError, match="'x' is a int, not an iterable"):
        open_source(f"{path}:x")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (3, "episode 0 of the iterator is a int; yield an Episode or a mapping"),
        ({"state": [1]}, "lacks 'action'; it has state"),
        ({"action": np.zeros((0, 3))}, "is empty, it has no steps"),
        ({"action": [[1, 2], [1]]}, "items of different shapes"),
    ],
)
def test_what_is_no_episode_is_refused(item, words):
    with pytest.raises(DataError, match=words):
        list(open_dataset([item]))

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from openvla.data.bad import BadData
from openvla.data.formats.folder import FolderSource
from openvla.data.images.pixels import encode_image
from openvla.errors import DataError

HEADER = "episode,image,instruction,action_x,action_gripper,state_a,timestamp,split\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = []
    for episode, split in (("a", "train"), ("b", "train"), ("c", "val")):
        for step in range(3):
            name = f"{episode}{step}.png"
            (tmp_path / name).write_bytes(encode_image(np.full((8, 8, 3), step, np.uint8), "png", "x"))
            rows.append(f'{episode},{name},"go, {episode}",{step}.5,1,{step},{step / 5},{split}\n')
    (tmp_path / "steps.txt").write_text(HEADER + "".join(rows))
    return tmp_path


def test_rows_become_episodes_and_splits(folder):
    source = FolderSource(folder)
    assert source.splits == {"train": 2, "val": 1}
    second = list(source.episodes())[1]
    assert second.metadata == {"episode": "b"}
    assert second.steps["action"].tolist() == [[0.5, 1], [1.5, 1], [2.5, 1]]
    assert second.steps["observation|state"].tolist() == [[0], [1], [2]]
    assert second.steps["language_instruction"].tolist() == ["go, b"] * 3
    assert second.steps["timestamp"].tolist() == pytest.approx([0, 0.2, 0.4])
    assert second.image("observation|image", 2).max() == 2
    assert second.steps["observation|image"][0].startswith(b"\x89PNG")


def test_json_lines_hold_lists(folder):
    (folder / "steps.txt").unlink()
    rows = [{"episode": 0, "image": f"a{t}.png", "instruction": "go", "action": [t, 0.5, 1]} for t in range(3)]
    (folder / "table").write_text("\n".join(map(json.dumps, rows)))
    (episode,) = FolderSource(folder).episodes()
    assert episode.steps["action"].tolist() == [[0, 0.5, 1], [1, 0.5, 1], [2, 0.5, 1]]


def edit(folder: Path, old: str, new: str) -> FolderSource:
    path = folder / "steps.txt"
    path.write_text(path.read_text().replace(old, new))
    return FolderSource(folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("b1.png", "gone.png", r"line 6, episode 'b', step 1: the image .*gone\.png' of column 'image' is not there"),
        (",1.5,1,1,0.2,train\nb,b2", ",fast,1,1,0.2,train\nb,b2", r"line 6, episode 'b': 'action' holds .*not numbers"),
    ],
)
def test_a_bad_row_is_named_or_its_episode_skipped(folder, old, new, words):
    source = edit(folder, old, new)
    with pytest.raises(DataError, match=words):
        list(source.episodes())
    bad = BadData("skip")
    assert [e.metadata["episode"] for e in source.episodes("train", bad)] == ["a"]
    assert len(bad.skipped) == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"go, b"', "go, b", "line 5 has 9 cells, the header 8; quote"),
        ("c,c2", "a,c2", "line 10: episode 'a' goes on after another one began .its first row is line 2."),
        ("c,c2", ",c2", "line 10 names no episode"),
        ("0.4,val", "0.4,train", "line 10: episode 'c' is in two splits"),
    ],
)
def test_a_broken_table_is_named_by_its_line(folder, old, new, words):
    with pytest.raises(DataError, match=words):
        list(edit(folder, old, new).episodes())


def test_two_tables_are_one_too_many(folder):
    (folder / "other.csv").write_text(HEADER)
    with pytest.raises(
        DataError, match=r"needs exactly one table of steps, CSV or JSON lines, and has other.csv, steps"
    ):
        FolderSource(folder)


def test_a_table_without_rows_says_what_rows_need(folder):
    (folder / "steps.txt").write_text(HEADER)
    with pytest.raises(DataError, match="has no rows; each row needs episode, image, instruction"):
        list(FolderSource(folder).episodes())

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from openvla.cli.main import main
from openvla.codec.statistics import load_statistics
from openvla.data.episode import build_episode
from openvla.data.rlds import read_episodes, write_episodes

MY_FILE = """
from openvla.data.registry.columns import inverted
from openvla.data.registry.record import DataRecord, end_effector

MINE = DataRecord(
    images={"primary": "observation|image"},
    columns=("action[:6]", inverted("action[6:]")),
    action=end_effector(control_hz=10),
)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)

    def episode():  # type: ignore[no-untyped-def]
        actions = np.hstack([random.normal(size=(6, 6)), np.arange(6)[:, None] > 2])
        images = np.zeros((6, 8, 8, 3), np.uint8)
        return build_episode({"observation|image": images, "action": actions, "language_instruction": ["go"] * 6})

    return write_episodes(tmp_path / "mine", [episode() for _ in range(4)], name="mine")


@pytest.fixture
def my_file(tmp_path: Path) -> str:
    path = tmp_path / "my_file.py"
    path.write_text(MY_FILE)
    return f"{path}:MINE"


def test_a_data_set_of_ones_own_needs_one_record_in_a_file(capsys, data: Path, my_file: str) -> None:
    assert main(["data", "stats", str(data), "--dataset", my_file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["MINE"]
    assert found["MINE"]["action"]["mean"][6] == 0.5
    assert main(["data", "inspect", str(data), "--dataset", my_file, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["record"]
    assert record["cameras"] == {"primary": "observation|image"}
    assert record["first_actions"][0][6] == 1
    assert main(["data", "inspect", str(data), "--dataset", my_file]) == 0
    assert "as MINE: 10 actions a second" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["stats", "inspect"])
def test_a_wrong_file_or_name_is_one_sentence(capsys, data: Path, my_file: str, verb: str) -> None:
    assert main(["data", verb, str(data), "--dataset", f"{my_file}S"]) == 2
    assert "unknown data set 'MINES'; did you mean 'MINE'?" in capsys.readouterr().err
    assert main(["data", verb, str(data), "--dataset", "none.py:MINE"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_statistics_of_a_mixture_go_to_a_file(capsys, data: Path, my_file: str, tmp_path: Path) -> None:
    (tmp_path / "MINE").symlink_to(data)
    line = ["data", "stats", str(tmp_path), "--mixture", f"{my_file}=0.5", "--output", str(tmp_path / "out.json")]
    assert main(line) == 0
    assert capsys.readouterr().out.startswith("MINE: 4 episodes, 24 steps")
    assert load_statistics(tmp_path / "out.json")["MINE"].num_transitions == 24
    assert main([*line, "--dataset", "kuka"]) == 2
    assert "--mixture names its data sets itself" in capsys.readouterr().err
    assert main([*line[:3], "--mixture", "bridge_rt_1"]) == 2
    assert "lacks 2 data sets of the mixture: bridge_orig, fractal20220817_data" in capsys.readouterr().err


def test_two_sets_are_compared_in_words(capsys, data: Path, my_file: str, tmp_path: Path) -> None:
    place = f"{data}:{my_file}"
    assert main(["data", "stats", "--compare", place, place]) == 0
    assert "A and B are compatible\n" in capsys.readouterr().out
    assert main(["data", "stats", str(data), "--dataset", my_file, "--json"]) == 0
    (tmp_path / "a.json").write_text(capsys.readouterr().out)
    assert main(["data", "stats", "--compare", place, str(tmp_path / "a.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compatible"] is True
    assert {finding["aspect"] for finding in found["findings"]} == {"dimensions", "scale", "sign", "gripper", "rate"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "which data set? name its directory, or two with --compare"),
        ("--compare a", "--compare takes two sets, not 1"),
        ("d --compare a b", "--compare takes the two sets that follow it"),
        ("--compare a b", "there is no directory or file a"),
        ("{data} --workers 0 --dataset kuka", "0 workers cannot read anything"),
    ],
)
def test_a_wrong_line_is_one_sentence(capsys, data: Path, line: str, words: str) -> None:
    assert main(["data", "stats", *line.format(data=data).split()]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["stats", "inspect"])
def test_a_torn_end_is_one_sentence_or_left_out_and_listed(capsys, data: Path, my_file: str, verb: str) -> None:
    shard = next(data.glob("*.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    line = ["data", verb, str(data), "--dataset", my_file]
    assert main(line) == 2
    assert "record 3 at byte" in capsys.readouterr().err
    assert main([*line, "--on-bad", "skip"]) == 0
    out = capsys.readouterr().out
    assert "3 episodes" in out
    assert "skipped 1:" in out


def test_the_doctor_mends_what_a_record_of_ones_own_makes_of_the_data(
    capsys, data: Path, my_file: str, tmp_path: Path
) -> None:
    line = ["data", "doctor", "--dataset", my_file, "--checkpoint", "none", "--json"]
    fixes = ["--fix", "resample=5hz,invert-gripper", "--fixed-output", str(tmp_path / "mended")]
    assert main([*line, str(data), *fixes]) == 0
    fixed = json.loads(capsys.readouterr().out)["fixed"]
    assert (fixed["episodes"], fixed["steps"]) == (4, 12)
    before, after = (next(read_episodes(place)).steps["action"] for place in (data, fixed["directory"]))
    assert after[:, :6] == pytest.approx(before[:, :6].reshape(3, 2, 6).sum(axis=1), abs=1e-5)
    assert np.array_equal(after[:, 6], 1 - before[1::2, 6])
    assert main([*line, fixed["directory"], "--hz", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 12

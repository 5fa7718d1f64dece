from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from openvla.cli.main import main
from openvla.data import recording
from openvla.data.rlds import read_episodes
from openvla.sim.demonstrations import Demonstration
from openvla.sim.metaworld import IMAGE_SIZE
from openvla.sim.tasks import DEFAULT_TASKS


class FakeRecording(Iterator[Demonstration]):
    """One demonstration per task and episode, and one failure per task."""

    def __init__(self, tasks, episodes, **settings) -> None:
        self.settings = settings
        self.failures = dict.fromkeys(tasks, 1)
        self._shown = iter([self._show(task, seed) for task in tasks for seed in range(episodes)])

    def __next__(self) -> Demonstration:
        return next(self._shown)

    def close(self) -> None:
        pass

    @staticmethod
    def _show(task: str, seed: int) -> Demonstration:
        images = np.zeros((2, 8, 8, 3), np.uint8)
        return Demonstration(task, f"do {task}", seed, images, np.ones((2, 4), np.float32), np.ones((2, 4)), True)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[FakeRecording]:
    made: list[FakeRecording] = []

    def record(tasks, episodes, **settings) -> FakeRecording:
        made.append(FakeRecording(tasks, episodes, **settings))
        return made[-1]

    monkeypatch.setattr(recording, "record", record)
    return made


def test_generate_records_every_task_and_counts_what_it_dropped(recordings, capsys, tmp_path) -> None:
    line = f"data generate --tasks door-open door-close --episodes 3 --seed 5 --noise 0.2 --output {tmp_path}/d --json"
    assert main(line.split()) == 0
    assert json.loads(capsys.readouterr().out) == {
        "directory": f"{tmp_path}/d/1.0.0",
        "episodes": 6,
        "steps": 12,
        "dropped": {"door-open": 1, "door-close": 1},
        "seed": 5,
    }
    assert recordings[0].settings == {"seed": 5, "noise": 0.2, "image_size": IMAGE_SIZE, "workers": 1, "gain": 1.0}
    episodes = list(read_episodes(tmp_path / "d"))
    assert [episode.metadata["task"] for episode in episodes] == ["door-open"] * 3 + ["door-close"] * 3
    assert episodes[0].steps["language_instruction"][0] == "do door-open"


def test_generate_says_in_words_what_it_dropped(recordings, capsys, tmp_path) -> None:
    assert main(f"data generate --tasks door-open --episodes 1 --output {tmp_path}/d".split()) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "task       recorded  dropped",
        "door-open         1        1",
        "",
        "1 episodes, 2 steps; failed episodes of the expert are dropped",
        f"{tmp_path}/d/1.0.0",
    ]
    assert "recording" in err


def test_generate_names_each_task_once(recordings, capsys, tmp_path) -> None:
    assert main(f"data generate --tasks reach reach --episodes 2 --output {tmp_path}/d --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2


def test_generate_never_overwrites(recordings, capsys, dataset) -> None:
    assert main(f"data generate --tasks reach --episodes 1 --output {dataset.parent}".split()) == 2
    assert "exists already; remove it" in capsys.readouterr().err


def test_generate_without_tasks_takes_the_default_ones(recordings, capsys, tmp_path) -> None:
    assert main(f"data generate --episodes 1 --output {tmp_path}/d --json".split()) == 0
    assert tuple(json.loads(capsys.readouterr().out)["dropped"]) == DEFAULT_TASKS


def test_generate_without_a_place_is_one_sentence(capsys) -> None:
    assert main("data generate --tasks reach".split()) == 2
    assert "Missing from openvla data generate: --output PATH" in capsys.readouterr().err


def test_generate_offers_the_nearest_suite(capsys, tmp_path) -> None:
    assert main(f"data generate --suite metawold --output {tmp_path}/d".split()) == 2
    assert "unknown suite 'metawold'; did you mean 'metaworld'?" in capsys.readouterr().err


def test_generate_offers_the_nearest_task(capsys, tmp_path) -> None:
    assert main(f"data generate --tasks dor-open --output {tmp_path}/d".split()) == 2
    assert "unknown Meta-World task 'dor-open'; did you mean 'door-open'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_inspect_gives_splits_sizes_instructions_and_ranges(capsys, dataset) -> None:
    assert main(["data", "inspect", str(dataset), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "metaworld"
    assert found["splits"] == {"train": 2}
    assert found["episode_length"] == {"min": 3, "median": 3.0, "max": 3}
    assert found["image_sizes"] == {"observation|image": {"16x24": 2}}
    assert found["instructions"] == {"do 0": 1, "do 1": 1}
    assert found["ranges"]["action"]["min"][0] == -1.0
    assert found["ranges"]["action"]["max"][3] == 1.0


def test_inspect_reads_as_text(capsys, dataset) -> None:
    assert main(["data", "inspect", str(dataset.parent)]) == 0
    out = capsys.readouterr().out
    assert "camera observation|image: 16x24 pixels" in out
    assert "\naction                float32 (4)\n" in out


def test_stats_are_a_statistics_file(capsys, dataset, tmp_path) -> None:
    from openvla.codec.statistics import load_statistics

    assert main(["data", "stats", str(dataset), "--json"]) == 0
    (tmp_path / "dataset_statistics.json").write_text(capsys.readouterr().out)
    statistics = load_statistics(tmp_path / "dataset_statistics.json")["metaworld"]
    assert statistics.num_transitions == 6
    assert statistics.action.min[0] == -1.0


def test_stats_read_as_text(capsys, dataset) -> None:
    assert main(["data", "stats", str(dataset)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("metaworld: 2 episodes, 6 steps\n\nfield    dimension")
    assert len(out.splitlines()) == 3 + 4 + 4


@pytest.mark.parametrize("verb", ["stats", "inspect"])
def test_a_directory_without_a_data_set_is_one_sentence(capsys, tmp_path: Path, verb: str) -> None:
    assert main(["data", verb, str(tmp_path)]) == 2
    assert "data set: no dataset_info.json" in capsys.readouterr().err
    assert main(["data", verb, str(tmp_path / "none")]) == 2
    assert "there is no directory" in capsys.readouterr().err


def test_stats_of_an_unknown_kind_offer_the_nearest(capsys, dataset) -> None:
    assert main(["data", "stats", str(dataset), "--dataset", "bridge_oirg"]) == 2
    assert "unknown data set 'bridge_oirg'; did you mean 'bridge_orig'" in capsys.readouterr().err


def test_stats_agree_with_the_published_ones(capsys, shared: Path) -> None:
    assert main(["data", "stats", str(shared / "data" / "bridge_dataset"), "--json"]) == 0
    expected = json.loads((shared / "golden" / "bridge_dataset_reference_stats.json").read_text())
    assert json.loads(capsys.readouterr().out) == {"bridge_dataset": expected}

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openvla.codec.statistics_file import DatasetStatistics, load_statistics, save_statistics
from openvla.errors import DataError


@pytest.fixture
def published(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "bridge_dataset_reference_stats.json").read_text())


def test_the_published_schema_survives_a_round_trip_exactly(published: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "dataset_statistics.json"
    save_statistics(path, {"bridge_orig": DatasetStatistics.from_dict(published)})
    assert json.loads(path.read_text()) == {"bridge_orig": published}
    assert load_statistics(path)["bridge_orig"].to_dict() == published
    assert [p.name for p in tmp_path.iterdir()] == ["dataset_statistics.json"]


def test_mask_proprio_and_counts_may_be_missing(published: dict[str, Any]) -> None:
    del published["action"]["mask"], published["proprio"], published["num_transitions"], published["num_trajectories"]
    statistics = DatasetStatistics.from_dict(published)
    assert statistics.proprio is None
    assert statistics.action.mask is None
    assert statistics.action.normalized.tolist() == [True] * 7
    assert (statistics.num_transitions, statistics.num_trajectories) == (0, 0)
    assert statistics.to_dict()["action"] == published["action"]


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("action",), 3, "the statistics, field 'action', is 3, not an object"),
        (("action", "q99"), None, "'q99' = None; it must be a list of numbers"),
        (("action", "q01"), ["a"], "it must be a list of numbers"),
        (("action", "q01"), [], "it must be a list of numbers"),
        (("action", "std"), [0.0, float("nan")], "'std' = .*not finite"),
        (("action", "mean"), [0.0] * 6, "fields of different lengths: .*'mean': 6, 'std': 7"),
        (("action", "mask"), [True] * 8, "fields of different lengths: .*'mask': 8"),
        (("action", "mask"), [1] * 7, "'mask' = .* true and false"),
        (("action", "q01"), [0.5] + [-1.0] * 6, r"q01 0.5 above q99 0.0155\d* in dimension 0"),
        (("num_transitions",), -1, "'num_transitions' = -1; it must be a whole number"),
        (("num_transitions",), float("nan"), "'num_transitions' = nan; it must be a whole number"),
        (("num_trajectories",), 1.5, "'num_trajectories' = 1.5; it must be a whole number"),
        (("num_trajectories",), "5", "'num_trajectories' = '5'; it must be a whole number"),
    ],
)
def test_a_broken_field_is_named(published: dict[str, Any], path: tuple[str, ...], value: Any, match: str) -> None:
    place = published
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(DataError, match=match):
        DatasetStatistics.from_dict(published)


def test_a_missing_field_is_named(published: dict[str, Any]) -> None:
    del published["proprio"]["q01"]
    with pytest.raises(DataError, match="field 'proprio', lacks 'q01'"):
        DatasetStatistics.from_dict(published)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list, not an object"),
        ('{"bridge": {"proprio": {}}}', "dataset 'bridge', has no 'action' entry"),
        ('{"bridge": 1}', "dataset 'bridge', has no 'action' entry"),
    ],
)
def test_a_file_that_is_no_statistics_file_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "dataset_statistics.json"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        load_statistics(path)


def test_a_missing_file_and_a_missing_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*: No such file.*; restore the statistics file"):
        load_statistics(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"cannot write .*none\.json: No such file"):
        save_statistics(tmp_path / "absent" / "none.json", {})

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openvla.cli.main import main


def printed(capsys: Any) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_data_index_says_what_it_made_and_where(toy_data: Path, tmp_path: Path, capsys: Any) -> None:
    line = ["data", "index", str(toy_data), "--dataset", "metaworld", "--output", str(tmp_path / "i"), "--json"]
    assert main([*line, "--workers", "1"]) == 0
    made = printed(capsys)
    assert (made["episodes"], made["steps"], made["made"], made["skipped"]) == (12, 96, True, [])
    assert Path(made["index"]) == tmp_path / "i"
    assert main(line) == 0
    assert not printed(capsys)["made"]


def test_data_index_lists_what_it_left_out(toy_data: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in toy_data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = next(copy.glob("*tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    line = ["data", "index", str(copy), "--dataset", "metaworld", "--workers", "1"]
    assert main(line) == 2
    assert "record 11 at byte" in capsys.readouterr().err
    assert main([*line, "--on-bad", "skip"]) == 0
    out = capsys.readouterr().out
    assert "11 episodes" in out
    assert "skipped 1:" in out


@pytest.mark.parametrize("arguments", [["nowhere"], ["nowhere", "--workers", "0"]])
def test_data_index_refuses_in_one_sentence(arguments: list[str], capsys: Any) -> None:
    assert main(["data", "index", *arguments]) == 2
    assert capsys.readouterr().err.startswith("openvla: ")


def test_bench_data_measures_every_stage(toy_data: Path, capsys: Any) -> None:
    line = [
        "bench",
        "data",
        str(toy_data),
        "--dataset",
        "metaworld",
        "--frames",
        "32",
        "--batch-size",
        "8",
        "--augment",
    ]
    assert main([*line, "--augment", "--samples-per-s", "10000", "--json"]) == 0
    found = printed(capsys)
    assert list(found["frames_per_s"]) == ["read", "decode", "resize", "augment", "encode", "all"]
    assert min(found["frames_per_s"].values()) > 0
    assert 0 <= found["stall_share"] <= 1
    assert found["first_batch_s"] > 0
    assert found["soak"] is None
    assert found["resident_bytes"] > 0


def test_bench_data_watches_memory_on_request(toy_data: Path, capsys: Any) -> None:
    line = ["bench", "data", str(toy_data), "--dataset", "metaworld", "--frames", "16", "--batch-size", "8"]
    assert main([*line, "--samples-per-s", "10000", "--soak", "160", "--json"]) == 0
    soak = printed(capsys)["soak"]
    assert soak["frames"] == 160
    assert soak["frames_per_s"] > 0
    assert 0 <= soak["growth_bytes"] < 50e6
    assert main([*line, "--soak", "-1"]) == 2
    assert "the soak is -1 frames; give a number from 0" in capsys.readouterr().err


def test_bench_alone_is_still_the_policy_bench(capsys: Any) -> None:
    assert main(["bench", "--help"]) == 0
    assert "Time a policy's answers" in capsys.readouterr().out

from __future__ import annotations

import json

import pytest

from openvla.cli.main import main


def test_convert_says_what_was_compared(capsys, dataset, tmp_path):
    assert main(f"data convert {dataset} {tmp_path}/there --format lerobot --fps 5 --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["directory"] == f"{tmp_path}/there"
    assert (found["source_format"], found["episodes"], found["steps"], found["skipped"]) == ("rlds", 2, 6, [])
    assert found["check"]["bit_equal_values"]["action"] == 24
    assert main(f"data convert {tmp_path}/there {tmp_path}/back --format rlds".split()) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 episodes (train 2), 6 steps\n")
    assert "action                    24  bit-equal" in out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{dataset} {tmp}/x --format lerobt", "unknown target format 'lerobt'; did you mean 'lerobot'"),
        ("{dataset} {tmp}/x --format lerobot --fps 2.5", "a whole number of steps a second, these data say 2.5"),
        ("{dataset} {tmp}/x --format rlds --on-bad drop", "by raise or skip, not by 'drop'"),
        ("{dataset} {dataset} --format rlds", "exists already"),
        ("{tmp}/none {tmp}/x --format rlds", "there is no directory or file"),
        ("{dataset} {tmp}/x --format rlds --split test", "has no split 'test'; it has train"),
    ],
)
def test_convert_refuses_in_one_sentence_and_leaves_nothing(capsys, dataset, tmp_path, line, words):
    assert main(["data", "convert", *line.format(dataset=dataset, tmp=tmp_path).split()]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["recorded"]


def test_doctor_prints_findings_and_writes_a_report(capsys, dataset, tmp_path):
    line = f"data doctor {dataset} --output {tmp_path}/report --checkpoint none"
    assert main([*line.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == f"{tmp_path}/report/report.html"
    assert found["findings"][0]["severity"] == "warning"
    assert (tmp_path / "report" / "report.json").exists()
    assert main(line.split()) == 0
    assert "metaworld: 2 episodes, 6 steps" in capsys.readouterr().out


def test_doctor_writes_a_cleaned_copy(capsys, dataset, tmp_path):
    line = f"data doctor {dataset} --checkpoint none --hz 10 --fixed-output {tmp_path}/fixed --json --fix"
    assert main([*line.split(), "resample=5hz,label=open the door, slowly"]) == 0
    fixed = json.loads(capsys.readouterr().out)["fixed"]
    assert (fixed["episodes"], fixed["steps"]) == (2, 4)
    assert main(["data", "doctor", fixed["directory"], "--checkpoint", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 4


def test_doctor_refuses_half_a_fix_and_unknown_ones(capsys, dataset, tmp_path):
    assert main(f"data doctor {dataset} --fix strip-noops".split()) == 2
    assert "--fix and --fixed-output belong together" in capsys.readouterr().err
    assert main(f"data doctor {dataset} --fix strip --fixed-output {tmp_path}/x --checkpoint none".split()) == 2
    assert "unknown fix 'strip'" in capsys.readouterr().err


def test_doctor_examines_what_a_record_makes_of_the_data(capsys, dataset):
    line = f"data doctor {dataset} --checkpoint none --json --dataset"
    assert main([*line.split(), "metaworld"]) == 0
    assert json.loads(capsys.readouterr().out)["dataset"] == "metaworld"
    assert main([*line.split(), "kuka"]) == 2
    assert "these steps are not of 'kuka'" in capsys.readouterr().err.splitlines()[-1]
    assert main([*line.split(), "metawrld"]) == 2
    assert "unknown data set 'metawrld'; did you mean 'metaworld'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["data stats", "data index", "bench data"])
def test_data_of_an_unknown_name_ask_for_a_record(capsys, dataset, tmp_path, monkeypatch, verb):
    monkeypatch.setenv("OPENVLA_CACHE", str(tmp_path / "cache"))
    assert main(f"data convert {dataset} {tmp_path}/own --format lerobot --fps 5".split()) == 0
    assert main([*verb.split(), f"{tmp_path}/own"]) == 2
    assert "these data call themselves 'own'" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_bench_reads_other_formats_than_rlds(capsys, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENVLA_CACHE", str(tmp_path / "cache"))
    assert main(f"data convert {dataset} {tmp_path}/own --format lerobot --fps 5".split()) == 0
    capsys.readouterr()
    line = f"bench data {tmp_path}/own --dataset metaworld --frames 4 --batch-size 2 --size 32 --json"
    assert main(line.split()) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 4

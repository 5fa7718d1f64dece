from __future__ import annotations

import json
import time

import pytest

from openvla.cli.main import main


def test_plan_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("plan --preset openvla-v01-7b --method lora --rank 64 --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["trainable"] == 195_207_936
    assert found["memory_bytes"]["peak"] > found["memory_bytes"]["weights"] > 14e9


def test_plan_reads_a_checkpoint_without_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("plan --checkpoint nano --method last-layer --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "nano"


@pytest.mark.parametrize(
    "line",
    [
        "--preset openvla-7b --method full --world-size 64 --batch 32",
        "--preset openvla-7b --method full --world-size 64 --shard 8 --accumulate 4 --batch 32 --checkpointing",
        "--preset openvla-7b --method lora --batch 16 --card-gb 80",
        "--preset openvla-7b --method qlora --batch 1 --card-gb 16",
        "--preset openvla-v01-7b --method frozen-vision --world-size 8",
        "--preset nano --method full --precision fp32 --batch 32",
    ],
)
def test_plans_of_the_usual_runs_are_there_in_two_seconds(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.process_time()
    assert main(["plan", *line.split(), "--examples", "1000000", "--json"]) == 0
    assert time.process_time() - start < 2
    found = json.loads(capsys.readouterr().out)
    assert found["largest_batch"] > 0
    assert found["hours"] > 0


def test_plan_draws_tables_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    line = "plan --preset openvla-7b --method sandwich --examples 1000000 --dollars-per-hour 2 --world-size 8"
    assert main(line.split()) == 0
    out = capsys.readouterr().out
    assert "trainable        1267348928" in out
    for words in ("16.81 % of the parameters", "peak", "largest batch in 80 GiB", "hours: ", "dollars: "):
        assert words in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("plan", "plan needs --checkpoint C or --preset P"),
        ("plan --preset nano --checkpoint nano", "not both"),
        ("plan --preset openvla-7", "unknown preset 'openvla-7'; did you mean 'openvla-7b'"),
        ("plan --preset nano --method lorra", "unknown method 'lorra'; did you mean 'lora'"),
        ("plan --preset nano --method lora --rank 0", "the LoRA rank is 0"),
        ("plan --preset nano --batch 0", "batch is 0"),
        ("plan --preset nano --mfu 2", "mfu 2.0"),
        ("plan --preset nano --batch 6 --accumulate 4", "batch is 6, which 4 micro-batches cannot share evenly"),
        ("plan --preset nano --world-size 8 --shard 3", "shard is 3, which does not divide the 8 devices"),
        ("plan --preset nano --supervised 64", "supervised is 64 and text_tokens 32"),
        ("plan --preset nano --card-gb nan", "card_gb is nan"),
        ("plan --preset nano --card-gb inf", "card_gb is inf"),
        ("plan --preset nano --dollars-per-hour -1", "dollars_per_hour is -1.0"),
        ("plan --preset nano --examples 0", "examples is 0; give a whole number from 1"),
        ("plan --checkpoint absent", "there is no checkpoint 'absent'"),
    ],
)
def test_bad_usage_is_one_sentence(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1

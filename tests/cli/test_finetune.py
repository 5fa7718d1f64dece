from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvla.cli.main import main
from openvla.train.config import TrainConfig


def test_flags_become_the_configuration(runs, capsys) -> None:
    line = (
        "finetune --checkpoint nano --data d --method lora --output o --rank 8 --steps 5 --learning-rate 1e-3 --resume"
    )
    assert main(line.split()) == 0
    expected = TrainConfig(
        Path("d"), Path("o"), "nano", method="lora", rank=8, steps=5, learning_rate=1e-3, resume=True
    )
    assert runs == [expected]
    assert type(runs[0]) is TrainConfig


def test_json_names_the_checkpoint_and_the_last_metrics(runs, capsys) -> None:
    assert main("finetune --checkpoint nano --data d --output o --json".split()) == 0
    assert json.loads(capsys.readouterr().out) == {"checkpoint": "runs/x/final", "metrics": {"train/loss": 0.25}}


def test_under_torchrun_only_the_first_process_prints(runs, capsys, monkeypatch) -> None:
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main("finetune --checkpoint nano --data d --output o --json".split()) == 0
        assert capsys.readouterr().out.count("\n") == lines


def test_text_ends_with_the_checkpoint(runs, capsys) -> None:
    assert main("finetune --checkpoint nano --data d --output o".split()) == 0
    assert capsys.readouterr().out == "train/loss 0.25\n\nruns/x/final\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--data d --output o", "Missing from openvla finetune: --checkpoint STR"),
        ("--checkpoint c --data d --output o --method half", "invalid choice 'half' for argument '--method'"),
        ("--checkpoint c --data d --output o --steps many", "Error parsing --steps"),
    ],
)
def test_bad_usage_is_one_sentence(runs, capsys, line, sentence) -> None:
    assert main(["finetune", *line.split()]) == 2
    assert sentence in capsys.readouterr().err

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla.errors import CheckpointError, TrainingError
from openvla.model.checkpoint import load_checkpoint, save_checkpoint
from openvla.train.config import TrainConfig
from openvla.train.export import export, is_step
from openvla.train.loop import train
from openvla.train.setup import starting_point

Make = Callable[..., TrainConfig]


def step(run: TrainConfig, number: int = 2) -> Path:
    return run.output / "checkpoints" / f"step-{number:06d}"


def test_a_saved_step_becomes_an_ordinary_checkpoint(config: Make, tmp_path: Path) -> None:
    run = config(steps=4)
    train(run)
    assert is_step(step(run))
    assert not is_step(run.output / "final")
    export(step(run, 4), tmp_path / "out")
    ours, final = (load_file(place / "model.safetensors") for place in (tmp_path / "out", run.output / "final"))
    assert all(torch.equal(ours[name], final[name]) for name in final)
    export(step(run, 2), tmp_path / "earlier")
    assert list(load_checkpoint(tmp_path / "earlier").codec.statistics) == ["metaworld"]


def test_the_final_weights_have_the_type_of_those_the_run_began_with(config: Make, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base", starting_point(config()), torch.bfloat16)
    final = train(config(checkpoint=str(tmp_path / "base"), method="frozen-vision", steps=2)).final
    assert {tensor.dtype for tensor in load_file(final / "model.safetensors").values()} == {torch.bfloat16}


def test_an_adapter_records_its_base_and_goes_into_no_other(config: Make, tmp_path: Path) -> None:
    base = starting_point(config())
    save_checkpoint(tmp_path / "base", base)
    run = config(checkpoint=str(tmp_path / "base"), method="lora", rank=4, steps=2)
    train(run)
    adapter = step(run) / "adapter"
    described = json.loads((adapter / "adapter_config.json").read_text())
    assert (described["r"], described["base_model_name_or_path"]) == (4, str(tmp_path / "base"))
    assert "sample" in json.loads((adapter / "base_weights.json").read_text())
    loaded = load_checkpoint(adapter).model.state_dict()
    final = load_file(run.output / "final" / "model.safetensors")
    assert all(torch.equal(loaded[name], final[name]) for name in final)
    shutil.rmtree(tmp_path / "base")
    base.model.projector.fc1.weight.data += 1.0
    save_checkpoint(tmp_path / "base", base)
    with pytest.raises(TrainingError, match=r"was trained from weights with the hash \w{12}, and those of .* \w{12};"):
        export(step(run), tmp_path / "out")
    with pytest.raises(
        CheckpointError, match=r"other weights than those in .* \(the hash of its base is \w{12}, theirs"
    ):
        load_checkpoint(adapter)


def test_an_adapter_that_was_tampered_with_is_not_merged(config: Make, tmp_path: Path) -> None:
    run = config(method="lora", rank=4, steps=2)
    train(run)
    path = step(run) / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    save_file(tensors | {first: tensors[first] * float("nan")}, path)
    with pytest.raises(CheckpointError, match="holds values that are not finite"):
        export(step(run), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_step_is_named(config: Make, tmp_path: Path) -> None:
    run = config(steps=2)
    train(run)
    (step(run) / "state" / ".metadata").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"cannot read .*state: it is damaged, .*; export another step"):
        export(step(run), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_convert_exports_a_saved_step(config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from openvla.cli.main import main

    run = config(steps=2)
    train(run)
    assert main(["convert", str(step(run)), str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["directory"] == str(tmp_path / "out")
    assert load_checkpoint(tmp_path / "out").codec.statistics
    assert main(["convert", str(step(run)), str(tmp_path / "p"), "--format", "prismatic"]) == 2
    assert "export it as hf first, then convert that" in capsys.readouterr().err

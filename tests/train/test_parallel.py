from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from openvla.errors import UsageError
from openvla.train import parallel
from openvla.train.config import TrainConfig
from openvla.train.fresh import fresh_checkpoint
from openvla.train.loop import train
from openvla.train.methods import prepare
from openvla.train.parallel import check_shares, compile_layers, recompute
from openvla.train.world import World

Make = Callable[..., TrainConfig]
Launch = Callable[..., list[tuple[int, str]]]


def losses(output: Path) -> list[float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def predictions(output: Path) -> list[dict[str, float]]:
    """Every logged number that does not depend on the clock or the machine."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("perf/")} for line in lines]


def cut(output: Path, step: int) -> None:
    """Make a finished run look as if it had died right after saving `step`."""
    shutil.rmtree(output / "final")
    for path in (output / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


def agree(ours: Path, theirs: Path) -> None:
    a, b = (load_file(output / "final" / "model.safetensors") for output in (ours, theirs))
    for name in b:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-4)


def test_two_processes_learn_what_one_does_and_one_resumes_their_run(config: Make, launch: Launch, tmp_path) -> None:
    alone = config(output=tmp_path / "alone", accumulate=2, weight_decay=0.1, keep=9)
    shared = dataclasses.replace(alone, output=tmp_path / "shared")
    done = launch(shared, shared)
    assert [code for code, _ in done] == [0, 0], done
    train(alone)
    for ours, theirs in zip(predictions(shared.output), predictions(alone.output), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    agree(shared.output, alone.output)
    cut(shared.output, 2)
    train(dataclasses.replace(shared, resume=True))
    assert losses(shared.output) == pytest.approx(losses(alone.output), rel=1e-5)
    agree(shared.output, alone.output)


def test_two_processes_resume_the_run_of_one(config: Make, launch: Launch, tmp_path: Path) -> None:
    alone = config(output=tmp_path / "alone", keep=9)
    train(alone)
    expected = losses(alone.output)
    shutil.copytree(alone.output, tmp_path / "shared")
    cut(tmp_path / "shared", 4)
    shared = dataclasses.replace(alone, output=tmp_path / "shared", resume=True)
    done = launch(shared, shared)
    assert [code for code, _ in done] == [0, 0], done
    assert losses(shared.output) == pytest.approx(expected, rel=1e-5)
    agree(shared.output, alone.output)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora", "rank": 4},
        {"method": "qlora", "rank": 4},
        {"method": "sandwich"},
        {"shard": 1},
        {"checkpoint_activations": True},
    ],
    ids=str,
)
def test_every_method_learns_in_two_processes_what_it_does_in_one(config, launch, tmp_path, changes) -> None:
    alone = config(output=tmp_path / "alone", **changes)
    shared = dataclasses.replace(alone, output=tmp_path / "shared")
    done = launch(shared, shared)
    assert [code for code, _ in done] == [0, 0], done
    train(dataclasses.replace(alone, shard=0))
    assert losses(shared.output) == pytest.approx(losses(alone.output), rel=1e-5)


@pytest.mark.slow
def test_four_processes_in_two_copies_learn_what_one_does(config: Make, launch: Launch, tmp_path: Path) -> None:
    alone = config(output=tmp_path / "alone")
    shared = dataclasses.replace(alone, output=tmp_path / "shared", shard=2)
    done = launch(*[shared] * 4)
    assert [code for code, _ in done] == [0] * 4, done
    train(alone)
    assert losses(shared.output) == pytest.approx(losses(alone.output), rel=1e-5)


def test_a_batch_that_cannot_be_shared_out_is_refused(config: Make) -> None:
    three = World(0, 3, torch.device("cpu"))
    with pytest.raises(
        UsageError, match=r"batch_size is 4, .* \(processes: 3, micro-batches of each: 1\); make it a multiple of 3"
    ):
        check_shares(three, 4, 1, 0)
    with pytest.raises(UsageError, match="shard is 2, which does not divide the 3 processes"):
        check_shares(three, 6, 1, 2)
    with pytest.raises(UsageError, match=r"batch_size is 4, .* multiple of 3"):
        train(config(accumulate=3))
    assert not config().output.exists()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", ["full", "frozen-vision"])
def test_a_model_becomes_float32_a_layer_at_a_time(monkeypatch: pytest.MonkeyPatch, method: str, precision) -> None:
    model = fresh_checkpoint("micro", "metaworld", 0).model.bfloat16()
    prepare(model, method, 0, 0, precision, widened=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    wide: list[tuple[nn.Module, set[nn.Parameter]]] = []
    sliced: set[nn.Parameter] = set()

    def slice_part(part: nn.Module, **settings: object) -> None:
        """In place of `fully_shard`: notes what is float32 and not sliced yet."""
        held = {parameter for parameter in model.parameters() if parameter.dtype == torch.float32}
        wide.append((part, held - sliced))
        sliced.update(part.parameters())

    monkeypatch.setattr(parallel, "fully_shard", slice_part)
    monkeypatch.setattr(parallel, "register_fsdp_forward_method", lambda *words: None)
    monkeypatch.setattr(parallel, "_mesh", lambda *words: None)
    parallel.spread(model, World(0, 2, torch.device("cpu")), precision, 0)
    assert len(wide) == len(parallel.layers_of(model)) + 1
    assert all(held <= set(part.parameters()) for part, held in wide)
    expected = {p for p in model.parameters() if p.requires_grad or precision == torch.float32}
    assert {p for p in model.parameters() if p.dtype == torch.float32} == expected


def gradients(change: Callable[[nn.Module], None]) -> list[torch.Tensor]:
    model = fresh_checkpoint("micro", "metaworld", 0).model
    change(model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 200, (2, 6), generator=generator)
    logits, targets = model.supervised_logits(ids, torch.randn(2, 6, 28, 28, generator=generator), ids)
    torch.nn.functional.cross_entropy(logits, targets).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_recomputed_activations_give_the_same_gradients_under_the_same_names() -> None:
    plain, lean = gradients(lambda model: None), gradients(recompute)
    assert all(torch.equal(a, b) for a, b in zip(plain, lean, strict=True))
    model = fresh_checkpoint("micro", "metaworld", 0).model
    names = list(model.state_dict())
    recompute(model)
    assert list(model.state_dict()) == names


def test_micro_batches_add_up_to_the_whole_batch(config: Make, tmp_path: Path) -> None:
    train(config(output=tmp_path / "a"))
    train(config(output=tmp_path / "b", accumulate=4))
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_layers_learn_the_same(config: Make, launch: Launch, tmp_path: Path) -> None:
    train(config(output=tmp_path / "a", steps=2))
    done = launch(config(output=tmp_path / "b", steps=2, compile=True))
    assert done[0][0] == 0, done
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=1e-4)
    model = fresh_checkpoint("micro", "metaworld", 0).model
    names = list(model.state_dict())
    compile_layers(model)
    assert list(model.state_dict()) == names

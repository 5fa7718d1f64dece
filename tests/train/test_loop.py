from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from openvla.codec.batch import IGNORE_INDEX
from openvla.errors import DataError, TrainingError, UsageError
from openvla.model.checkpoint import load_checkpoint, save_checkpoint
from openvla.train import loop
from openvla.train.config import TrainConfig
from openvla.train.data import load_batches, with_statistics
from openvla.train.loop import prefetched, train
from openvla.train.metrics import Window
from openvla.train.optim import learning_rate
from openvla.train.scores import Origin, Scorer
from openvla.train.setup import starting_point
from openvla.train.world import World

Make = Callable[..., TrainConfig]


def lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def predictions(output: Path) -> list[dict[str, float]]:
    """Every logged number that does not depend on the clock or the machine."""
    return [{name: value for name, value in line.items() if not name.startswith("perf/")} for line in lines(output)]


def losses(output: Path) -> dict[int, float]:
    return {int(line["step"]): line["train/loss"] for line in lines(output) if "train/loss" in line}


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the process die, as far as the run can tell, in the middle of `step`."""
    original = loop.Run.train_step

    def stop(run: loop.Run, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        if run.step == step:
            raise KeyboardInterrupt
        return original(run, batch)

    monkeypatch.setattr(loop.Run, "train_step", stop)


def long_chunks(config: Make) -> str:
    """A checkpoint that predicts more actions at once than any toy episode has."""
    start = starting_point(config())
    place = config().output.parent / "long"
    save_checkpoint(place, dataclasses.replace(start, codec=dataclasses.replace(start.codec, chunk=9)))
    return str(place)


def test_training_learns_what_the_colour_means(config: Make) -> None:
    result = train(config(steps=60, save_every=60, validate_every=60, log_every=20))
    assert result.metrics["validation/l1_normalized/x"] < 0.1
    assert result.metrics["train/loss"] < lines(result.final.parent)[1]["train/loss"]


def test_a_run_logs_the_numbers_that_every_run_must_log(config: Make) -> None:
    train(config())
    names = {name for line in lines(config().output) for name in line}
    assert names >= {
        "train/loss",
        "train/action_token_accuracy",
        "train/l1_normalized",
        "train/l1_normalized/gripper",
        "train/action_token_accuracy/x",
        "train/l1_physical/x_5cm",
        "train/metaworld/loss",
        "train/metaworld/action_token_accuracy",
        "train/metaworld/l1_normalized",
        "train/metaworld/l1_physical/y_5cm",
        "train/gradient_norm",
        "train/learning_rate",
        "perf/samples_per_s",
        "perf/mfu",
        "perf/data_wait_fraction",
        "perf/peak_resident_bytes",
        "validation/loss",
        "validation/action_token_accuracy",
        "validation/l1_normalized/x",
        "validation/l1_physical/x_5cm",
        "validation/metaworld/action_token_accuracy",
        "parameters/trainable",
    }
    assert list((config().output / "tensorboard").iterdir())


def test_the_final_checkpoint_acts_with_the_statistics_of_the_data(config: Make) -> None:
    codec = load_checkpoint(train(config()).final).codec
    assert list(codec.statistics) == ["metaworld"]
    assert codec.spec.names == ("x", "y", "z", "gripper")


def test_the_loss_covers_action_tokens_and_stop_token_only(config: Make) -> None:
    run = config()
    codec = with_statistics(starting_point(run).codec, run)
    training, _ = load_batches(run, codec)
    example = training.sources[0].example(0, codec)
    supervised = example.labels[example.labels != IGNORE_INDEX]
    assert len(supervised) == codec.spec.dim + 1
    assert supervised[-1] == codec.eos_token_id
    assert all(token in codec.actions.token_range for token in supervised[:-1])


def test_steps_equal_those_of_a_plain_loop(config: Make) -> None:
    run = config(steps=5, gradient_clip=0.5, weight_decay=0.1, warmup_ratio=0.4, schedule="cosine")
    train(run)
    start = starting_point(run)
    model, codec = start.model.float().requires_grad_(True), with_statistics(start.codec, run)
    batches, _ = load_batches(run, codec)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=run.learning_rate, fused=False)
    expected: list[float] = []
    for step, batch in enumerate(prefetched(batches, 0, 5)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, run)
        pixels = np.stack([codec.images.normalize(list(row)) for row in batch["pixel_values"].numpy()])
        loss = model(batch["input_ids"], torch.from_numpy(pixels), batch["attention_mask"], batch["labels"]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert list(losses(run.output).values()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, step: int
) -> None:
    straight = config(output=tmp_path / "straight", method=method, rank=4)
    train(straight)
    broken = dataclasses.replace(straight, output=tmp_path / "broken")
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    train(dataclasses.replace(broken, resume=True))
    assert losses(broken.output) == losses(straight.output)
    ours, theirs = (load_file(run.output / "final" / "model.safetensors") for run in (broken, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_resumed_run_logs_the_same_lines_even_where_saving_and_logging_fall_apart(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = config(output=tmp_path / "straight", steps=12, save_every=5, log_every=4)
    train(straight)
    broken = dataclasses.replace(straight, output=tmp_path / "broken")
    with monkeypatch.context() as patch:
        interrupt_at(7, patch)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    train(dataclasses.replace(broken, resume=True))
    assert predictions(broken.output) == predictions(straight.output)


def test_bf16_follows_fp32(config: Make, tmp_path: Path) -> None:
    train(config(output=tmp_path / "a"))
    train(config(output=tmp_path / "b", precision="bf16"))
    ours, theirs = losses(tmp_path / "b"), losses(tmp_path / "a")
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=0.05)


def test_old_checkpoints_are_removed(config: Make) -> None:
    train(config(keep=1))
    assert [path.name for path in (config().output / "checkpoints").iterdir()] == ["step-000006"]


def test_a_loss_that_is_not_finite_stops_before_a_weight_changes(config: Make, tmp_path: Path) -> None:
    bad = starting_point(config())
    bad.model.language_model.lm_head.weight.data.fill_(3e38)
    save_checkpoint(tmp_path / "bad", bad)
    sentence = r"step 0: the loss is nan .* no weight was changed; .* this batch: 'metaworld' \(loss nan\)"
    with pytest.raises(TrainingError, match=sentence):
        train(config(checkpoint=str(tmp_path / "bad")))
    assert not (config().output / "checkpoints").exists()


def test_an_output_in_use_is_refused(config: Make) -> None:
    train(config(steps=1))
    with pytest.raises(TrainingError, match="is not empty; resume that run with --resume, or choose another output"):
        train(config(steps=1))


def test_a_resumed_run_must_be_the_same_run(config: Make) -> None:
    train(config(steps=2))
    with pytest.raises(TrainingError, match=r"learning_rate was 0.003 and is 0.1; give the same .* or --force"):
        train(config(steps=2, learning_rate=0.1, resume=True))


def test_a_forced_resume_goes_on_with_the_new_settings_and_says_what_changed(config: Make, caplog) -> None:
    train(config(steps=2))
    shutil.rmtree(config().output / "final")
    assert train(config(steps=4, learning_rate=0.1, resume=True, force=True)).metrics["train/learning_rate"] == 0.1
    assert "learning_rate was 0.003 and is 0.1" in caplog.text
    assert json.loads((config().output / "run.json").read_text())["learning_rate"] == 0.1


def test_no_force_turns_one_method_into_another(config: Make) -> None:
    train(config(steps=2))
    with pytest.raises(TrainingError, match=r"method was 'full' and is 'lora'; give the same values as before$"):
        train(config(steps=2, method="lora", resume=True, force=True))


def test_no_force_changes_how_weights_are_quantised(config: Make) -> None:
    run = config(steps=2, method="qlora", rank=4)
    train(run)
    with pytest.raises(
        TrainingError, match=r"double_quantization was False and is True; give the same values .* before$"
    ):
        train(dataclasses.replace(run, double_quantization=True, resume=True, force=True))


def test_a_window_that_was_interrupted_goes_on_unless_the_data_changed(config: Make) -> None:
    train(config(steps=3, log_every=5))
    progress = json.loads((config().output / "checkpoints" / "step-000002" / "progress.json").read_text())["unlogged"]
    assert progress["steps"] == 2
    codec = load_checkpoint(config().output / "final").codec
    here = World(0, 1, torch.device("cpu"))
    for name, steps in (("metaworld", 2), ("another", 0)):
        scorer = Scorer([Origin(name, codec.statistics["metaworld"].action)], codec, here.device)
        window = Window(scorer, here, float, 1.0)
        window.restore(progress)
        assert window.state()["steps"] == steps


def test_there_must_be_something_to_resume(config: Make) -> None:
    with pytest.raises(TrainingError, match=r"there is no run\.json in it; start the run without --resume"):
        train(config(resume=True))


def test_a_torn_description_of_the_run_is_named(config: Make) -> None:
    train(config(steps=2))
    (config().output / "run.json").write_text('{"steps": ')
    with pytest.raises(TrainingError, match=r"run\.json is not JSON .*; restore it, or start a new run"):
        train(config(steps=2, resume=True))


def test_a_run_that_cannot_start_leaves_nothing_behind(config: Make) -> None:
    with pytest.raises(DataError, match="there are no training frames"):
        train(config(hold_out=0, data=config().data.parent, checkpoint=long_chunks(config)))
    assert not config().output.exists()


@pytest.mark.parametrize("part", ["progress.json", "state/.metadata", "state/__0_0.distcp"])
def test_a_damaged_state_is_named(config: Make, part: str) -> None:
    train(config(steps=2))
    path = config().output / "checkpoints" / "step-000002" / part
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(
        TrainingError,
        match=r"cannot resume from .*step-000002: it is damaged, .*; remove it to resume from the one before",
    ):
        train(config(steps=2, resume=True))


def test_a_state_that_lacks_a_part_is_named(config: Make) -> None:
    train(config(steps=2))
    path = config().output / "checkpoints" / "step-000002" / "progress.json"
    progress = json.loads(path.read_text())
    del progress["unlogged"]
    path.write_text(json.dumps(progress))
    with pytest.raises(TrainingError, match=r"cannot resume from .*step-000002: it is damaged, .*KeyError: 'unlogged'"):
        train(config(steps=2, resume=True))


def test_a_run_resumed_from_other_weights_names_both_hashes(config: Make, tmp_path: Path) -> None:
    start = starting_point(config())
    save_checkpoint(tmp_path / "base", start)
    run = config(steps=2, checkpoint=str(tmp_path / "base"), method="last-layer")
    train(run)
    shutil.rmtree(tmp_path / "base")
    start.model.projector.fc1.weight.data += 1.0
    save_checkpoint(tmp_path / "base", start)
    with pytest.raises(TrainingError, match=r"trained from weights with the hash \w{12}, and those of .* have \w{12};"):
        train(dataclasses.replace(run, resume=True))


def test_a_run_may_be_moved_and_resumed(config: Make, tmp_path: Path) -> None:
    train(config(steps=2))
    moved = config().output.rename(tmp_path / "moved")
    shutil.rmtree(moved / "final")
    assert train(config(steps=2, output=moved, resume=True)).final == moved / "final"


def test_data_of_another_robot_is_refused(config: Make, shared: Path) -> None:
    final = train(config(steps=1)).final
    bridge = config(checkpoint=str(final), output=final.parent / "b", data=shared / "data", dataset="bridge_dataset")
    with pytest.raises(UsageError, match="'bridge_dataset' has 7 action dimensions, the checkpoint 4"):
        train(bridge)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "steps is 0; give a whole number from 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0 and gradient_clip 1.0; both must be above 0"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
        ({"learning_rate": float("inf")}, "learning_rate is inf and gradient_clip 1.0; both must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; give 0 or more"),
        ({"weight_decay": float("nan")}, "weight_decay is nan; give 0 or more"),
        ({"hold_out": 1}, "hold_out is 1 .* the first must be 0 or from 2"),
        ({"warmup_ratio": 2.0}, "warmup_ratio 2.0"),
        ({"checkpoint": "preset:nono"}, "unknown preset 'nono'; did you mean 'nano'"),
        ({"checkpoint": "preset:openvla-7b"}, "needs the tokenizer of its language model"),
        ({"dataset": "metaword"}, "unknown data set 'metaword'; did you mean 'metaworld'"),
        ({"device": "gpu9"}, "the device 'gpu9' cannot be used here"),
        ({"method": "lora", "rank": 0}, "the LoRA rank is 0"),
    ],
)
def test_settings_that_no_run_can_have_are_refused(config: Make, change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        train(config(**change))
    assert not config().output.exists()

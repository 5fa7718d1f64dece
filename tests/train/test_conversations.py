from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from openvla.codec.batch import IGNORE_INDEX
from openvla.data.bad import BadData
from openvla.data.loading.batches import Batch
from openvla.errors import CheckpointError, DataError, TrainingError, UsageError
from openvla.model.checkpoint import load_checkpoint
from openvla.train import loop
from openvla.train.config import TrainConfig
from openvla.train.conversations import mixed, open_conversations
from openvla.train.data import load_batches, with_statistics
from openvla.train.export import export
from openvla.train.loop import train
from openvla.train.run_file import read_run
from openvla.train.saver import step_directory
from openvla.train.setup import starting_point

Make = Callable[..., TrainConfig]

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """A directory with eight conversations in which the colour of the image is the answer, and two of text alone."""
    place = tmp_path / "talks"
    place.mkdir()
    entries: list[dict[str, object]] = []
    for number in range(8):
        name = ("red", "blue")[number % 2]
        Image.new("RGB", (30 + number, 28), COLOURS[name]).save(place / f"{number}.png")
        entries.append({"image": f"{number}.png", "conversations": said("<image>\nWhat colour?", name, "Sure?", "Yes")})
    entries += [{"conversations": said(f"How many is {word}?", word)} for word in ("one", "two")]
    (place / "chat.json").write_text(json.dumps(entries))
    return place


def said(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(turns)]


@pytest.fixture
def captions(talks: Path) -> Path:
    """The same images, each with the colour's name as its caption."""
    entries = [each for each in json.loads((talks / "chat.json").read_text()) if "image" in each]
    for each in entries:
        each["conversations"] = each["conversations"][:2]
    (talks / "captions.json").write_text(json.dumps(entries))
    return talks / "captions.json"


@pytest.fixture
def vlm(config: Make, talks: Path) -> Make:
    """A run on conversations alone, with changes."""
    return lambda **changes: config(
        **({"image_text": talks, "image_text_ratio": 1.0, "method": "frozen-vision"} | changes)
    )


@pytest.fixture
def both(config: Make, talks: Path) -> Make:
    """A run on frames and conversations, with changes."""
    return lambda **changes: config(**({"image_text": talks, "image_text_ratio": 0.5, "batch_size": 8} | changes))


def lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def values(output: Path, name: str) -> list[float]:
    return [line[name] for line in lines(output) if name in line]


def weights(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "model.safetensors")


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts of the model of which any weight is another, bit for bit."""
    return {name.split(".")[0] for name, tensor in after.items() if not torch.equal(before[name], tensor)}


def test_from_encoders_and_a_language_model_to_a_policy_that_still_talks(
    config: Make, talks: Path, captions: Path, tmp_path: Path
) -> None:
    stage = {"image_text": talks, "image_text_ratio": 1.0, "steps": 40, "save_every": 40, "validate_every": 40}
    last = {"checkpoint": "preset:micro"}
    parts = {
        "align": {**stage, "image_text": captions, "captions": True, "method": "align"},
        "finetune": {**stage, "method": "frozen-vision"},
        "robot": {**stage, "image_text": None, "method": "frozen-vision"},
        "both": {**stage, "image_text_ratio": 0.5, "method": "full"},
    }
    trained = {
        "align": {"projector"},
        "finetune": {"projector", "language_model"},
        "robot": {"projector", "language_model"},
        "both": {"projector", "language_model", "vision_backbone"},
    }
    before = {n: t.clone() for n, t in starting_point(config(**stage)).model.state_dict().items()}
    for name, changes in parts.items():
        run = config(**changes, **last, output=tmp_path / name)
        result = train(run)
        losses = values(run.output, "train/loss")
        assert np.mean(losses[-10:]) < np.mean(losses[:10]), name
        after = weights(result.final)
        assert moved(before, after) == trained[name], name
        before, last = after, {"checkpoint": str(result.final)}
    assert {"validation/language_loss", "validation/language_token_accuracy"} <= set(result.metrics)
    assert {"validation/action_token_accuracy", "validation/l1_normalized/x"} <= set(result.metrics)
    codec = load_checkpoint(result.final).codec
    assert list(codec.statistics) == ["metaworld"]


def test_a_vision_language_model_learns_what_the_colour_is_called(vlm: Make) -> None:
    result = train(vlm(steps=100, save_every=100, validate_every=100, method="full", hold_out=4))
    assert result.metrics["validation/language_token_accuracy"] > 0.9
    codec = load_checkpoint(result.final).codec
    assert (codec.action, dict(codec.statistics)) == (None, {})


def test_a_model_that_never_acted_says_so_when_it_is_asked_to(vlm: Make) -> None:
    codec = load_checkpoint(train(vlm(steps=1)).final).codec
    with pytest.raises(CheckpointError, match="the number of action dimensions is unknown"):
        _ = codec.spec


def batches(config: TrainConfig, steps: int) -> list[Batch]:
    codec = with_statistics(starting_point(config).codec, config)
    training, _ = load_batches(config, codec)
    return [training[step] for step in range(steps)]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_batches_hold_conversations_by_their_share(both: Make, ratio: float) -> None:
    drawn = np.concatenate([batch["source"] for batch in batches(both(image_text_ratio=ratio), 200)])
    assert drawn.mean() == pytest.approx(ratio, abs=0.04)


def test_the_share_holds_whatever_the_data_sets_weigh() -> None:
    assert mixed([3.0, 1.0], 0.2) == pytest.approx([0.6, 0.2, 0.2])
    assert mixed([], 1.0) == [1.0]


def test_frames_and_conversations_add_to_one_loss_over_all_supervised_positions(both: Make) -> None:
    """The gradient of a mixed batch is that of a mean over rows computed one by one, text alone without an image."""
    run = both()
    start = starting_point(run)
    batch = next(each for each in batches(run, 9) if "has_image" in each and 0 < each["source"].sum() < 8)
    ids, labels, has_image = (torch.from_numpy(batch[name]) for name in ("input_ids", "labels", "has_image"))
    pixels = torch.randn(8, 6, 28, 28, generator=torch.Generator().manual_seed(0))
    logits, targets = start.model.supervised_logits(ids, pixels, labels, has_image)
    found = torch.nn.functional.cross_entropy(logits, targets)
    total, count = torch.zeros(()), 0
    for row in range(8):
        length = int(batch["attention_mask"][row].sum())
        one, wanted = ids[row : row + 1, :length], labels[row : row + 1, :length]
        if has_image[row]:
            each = start.model(one, pixels[row : row + 1], labels=wanted).loss
        else:
            language = start.model.language_model
            hidden = language.model(language.model.embed_tokens(one), torch.arange(length)[None])
            each = torch.nn.functional.cross_entropy(language.lm_head(hidden)[0, :-1], wanted[0, 1:])
        learned = int((wanted[:, 1:] != IGNORE_INDEX).sum())
        total, count = total + each * learned, count + learned
    assert torch.allclose(found, total / count, rtol=1e-5)
    parameters = [p for p in start.model.parameters() if p.requires_grad]
    ours, theirs = (
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in (found, total / count)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-6)


def test_both_kinds_are_measured_in_training_and_in_validation(both: Make) -> None:
    train(both())
    names = {name for line in lines(both().output) for name in line}
    for kind in ("train", "validation"):
        assert {f"{kind}/loss", f"{kind}/action_token_accuracy"} <= names
        assert {f"{kind}/language_loss", f"{kind}/language_token_accuracy"} <= names


def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(
    both: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(both(output=tmp_path / "whole"))
    original = loop.Run.train_step

    def stop(run: loop.Run, batch: dict[str, Tensor]) -> None:
        if run.step == 5:
            raise KeyboardInterrupt
        original(run, batch)

    monkeypatch.setattr(loop.Run, "train_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(both())
    monkeypatch.undo()
    resumed = train(both(resume=True))
    assert not moved(weights(whole.final), weights(resumed.final))
    for name in ("train/loss", "train/language_loss", "validation/language_loss"):
        assert values(both().output, name) == values(tmp_path / "whole", name)


def test_conversations_may_not_change_when_a_run_is_resumed(both: Make, talks: Path, captions: Path) -> None:
    train(both())
    with pytest.raises(TrainingError, match=r"image_text_ratio was 0\.5 and is 0\.25"):
        train(both(resume=True, image_text_ratio=0.25))
    with pytest.raises(TrainingError, match=r"image_text was .*talks' and is .*captions"):
        train(both(resume=True, image_text=captions))


def test_a_run_knows_its_settings_again_and_a_saved_step_becomes_a_checkpoint(vlm: Make, tmp_path: Path) -> None:
    run = vlm()
    train(run)
    assert read_run(run.output) == run
    export(step_directory(run.output, 6), tmp_path / "exported")
    assert not moved(weights(tmp_path / "exported"), weights(run.output / "final"))


def test_adapters_learn_from_both(both: Make) -> None:
    result = train(both(method="lora", rank=4))
    assert {"train/language_loss", "train/l1_normalized"} <= set(result.metrics)


def test_conversations_that_cannot_be_used_are_left_out_and_listed(vlm: Make, talks: Path, caplog) -> None:
    (talks / "3.png").unlink()
    with pytest.raises(DataError, match=r"chat\.json, entry 3: there is no image .*3\.png"):
        train(vlm())
    assert not vlm().output.exists()
    train(vlm(on_bad="skip"))
    assert "entry 3: there is no image" in caplog.text


def test_a_broken_file_stops_the_run_before_anything_is_written(vlm: Make, talks: Path) -> None:
    (talks / "chat.json").write_text("{}")
    with pytest.raises(DataError, match="does not begin with"):
        train(vlm())
    assert not vlm().output.exists()


def test_text_alone_is_enough(vlm: Make, talks: Path) -> None:
    entries = json.loads((talks / "chat.json").read_text())[-2:]
    (talks / "chat.json").write_text(json.dumps(entries))
    run = vlm(hold_out=0)
    codec = starting_point(run).codec
    assert not batches(run, 1)[0]["has_image"].any()
    talk = open_conversations(run, BadData())
    assert talk is not None
    assert len(talk) == 2
    assert codec.tokenizer is not None
    assert train(run).metrics["train/language_loss"] > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_text_ratio": 0.0}, r"image_text_ratio is 0\.0; give a share above 0 and up to 1"),
        ({"image_text_ratio": 1.5}, r"image_text_ratio is 1\.5"),
        ({"image_text_ratio": float("nan")}, "image_text_ratio is nan"),
        ({"image_text_tokens": 0}, "image_text_tokens is 0; give a whole number from 1"),
        ({"image_text": None, "captions": True}, "captions is set, but no image_text"),
        ({"checkpoint": "nano", "language_model": "x"}, "are parts of a new model, but 'nano' has its own"),
        ({"vision_weights": (Path("a"),)}, "vision_weights are given, but no language_model"),
        ({"language_model": "none", "checkpoint": "preset:micr"}, "did you mean 'micro'"),
    ],
)
def test_settings_that_no_run_can_have_are_refused(vlm: Make, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        train(vlm(**changes))


def test_a_language_model_that_is_not_there_is_named(vlm: Make) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint '\./none'"):
        train(vlm(language_model="./none"))


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_two_processes_learn_what_one_does(both: Make, launch, tmp_path: Path, ratio: float) -> None:
    train(both(image_text_ratio=ratio, output=tmp_path / "one"))
    run = both(image_text_ratio=ratio, output=tmp_path / "two")
    assert [code for code, _ in launch(run, run)] == [0, 0]
    for name in ("train/loss", "train/language_loss", "validation/language_loss"):
        assert values(tmp_path / "two", name) == pytest.approx(values(tmp_path / "one", name), rel=1e-5)

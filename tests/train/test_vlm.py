from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from openvla.cli.main import main
from openvla.model.checkpoint import load_checkpoint
from openvla.model.presets import PRESETS
from openvla.model.registry import VLMS
from openvla.model.text_config import write_decoder
from openvla.train.fresh import fresh_checkpoint
from openvla.train.setup import check
from openvla.train.stage import needs
from openvla.train.vlm import BASE, co_finetune, vlm, vlm_align, vlm_finetune


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """A directory with align/ and finetune/, six pictures and their colours each."""
    for stage in ("align", "finetune"):
        place = tmp_path / "llava" / stage
        place.mkdir(parents=True)
        entries: list[dict[str, object]] = []
        for n in range(6):
            Image.new("RGB", (28, 28), (250 * (n % 2), 0, 0)).save(place / f"{n}.jpg")
            turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": ("black", "red")[n % 2]}]
            entries.append({"image": f"{n}.jpg", "conversations": turns})
        (place / "chat.json").write_text(json.dumps(entries))
    return tmp_path / "llava"


TINY = ["--steps", "3", "--batch-size", "2", "--accumulate", "1", "--device", "cpu", "--precision", "fp32", "--json"]


def test_both_stages_run_from_the_command_line_to_a_checkpoint(
    llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--data", str(llava), "--output", str(tmp_path / "run"), "--checkpoint", "preset:micro"]
    assert main(["train", "vlm", *place, *TINY]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["checkpoint"] == str(tmp_path / "run" / "finetune" / "final")
    assert "validation/language_token_accuracy" in result["metrics"]
    assert load_checkpoint(result["checkpoint"]).codec.statistics == {}


def test_what_it_made_learns_to_act_and_goes_on_talking(
    llava: Path, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--data", str(llava / "finetune"), "--output", str(tmp_path / "vlm"), "--checkpoint", "preset:micro"]
    assert main(["train", "vlm-finetune", *start, *TINY]) == 0
    made = json.loads(capsys.readouterr().out)["checkpoint"]
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "robot").symlink_to(toy_data)
    (tmp_path / "both" / "image-text").symlink_to(llava / "finetune")
    place = ["--data", str(tmp_path / "both"), "--output", str(tmp_path / "run"), "--dataset", "metaworld"]
    assert main(["train", "co-finetune", *place, "--checkpoint", made, "--hold-out", "4", *TINY]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert {"validation/action_token_accuracy", "validation/language_loss"} <= set(metrics)


def test_published_encoders_and_a_language_model_become_one_model(
    llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(path) for path in parts(tmp_path)]
    place = ["--data", str(llava / "align"), "--output", str(tmp_path / "run"), "--checkpoint", "preset:micro"]
    assert (
        main(["train", "vlm-align", *place, "--language-model", files[0], "--vision-weights", *files[1:], *TINY]) == 0
    )
    made = load_checkpoint(json.loads(capsys.readouterr().out)["checkpoint"]).model.state_dict()
    assert torch.equal(made["language_model.model.norm.weight"], torch.full((32,), 0.5))
    for number, encoder in enumerate(("featurizer", "fused_featurizer")):
        theirs = load_file(files[1 + number])["patch_embed.proj.weight"]
        assert torch.equal(made[f"vision_backbone.{encoder}.patch_embed.proj.weight"], theirs)


def parts(place: Path) -> list[Path]:
    """The directory of a language model whose last norm is one half, and the file of each encoder, of micro's sizes."""
    start = fresh_checkpoint("micro", None, seed=1)
    weights = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    weights["language_model.model.norm.weight"][:] = 0.5
    language, *encoders = (place / name for name in ("llm", "dino.safetensors", "siglip.safetensors"))
    language.mkdir()
    start.codec.save(language)
    (language / "config.json").write_text(json.dumps(write_decoder(start.model.config.decoder)))
    for path, prefix in (
        (language / "model.safetensors", "language_model."),
        (encoders[0], "vision_backbone.featurizer."),
        (encoders[1], "vision_backbone.fused_featurizer."),
    ):
        save_file({n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}, path)
    return [language, *encoders]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda llava: (llava / "chat.json").unlink(), "holds no chat.json but no JSON file"),
        (lambda llava: (llava / "3.jpg").unlink(), "entry 3: there is no image"),
        (lambda llava: (llava / "3.jpg").write_bytes(b"no"), "entry 3: the image"),
        (lambda llava: (llava / "chat.json").write_text('[{"image": "3.jpg"}]'), "entry 0: its 'conversations' is no"),
    ],
)
def test_bad_conversations_are_one_sentence(
    llava: Path, tmp_path: Path, change: Callable[[Path], object], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(llava / "align")
    place = ["--data", str(llava / "align"), "--output", str(tmp_path / "run"), "--checkpoint", "preset:micro"]
    assert main(["train", "vlm-align", *place, *TINY]) == 2
    complaint = [line for line in capsys.readouterr().err.splitlines() if line.startswith("openvla: ")]
    assert len(complaint) == 1
    assert sentence in complaint[0]


def test_settings_are_the_published_ones() -> None:
    [align], [finetune] = vlm_align(Path("d"), Path("o")), vlm_finetune(Path("d"), Path("o"))
    row = VLMS[BASE]
    assert (align.config.learning_rate, align.config.weight_decay, align.config.batch_size) == (1e-3, 0.0, 256)
    assert (finetune.config.learning_rate, finetune.config.weight_decay, finetune.config.batch_size) == (2e-5, 0.1, 128)
    assert {(each.config.schedule, each.config.warmup_ratio) for each in (align, finetune)} == {("cosine", 0.03)}
    assert {each.config.gradient_clip for each in (align, finetune)} == {1.0}
    assert (align.config.method, finetune.config.method) == ("align", "frozen-vision")
    assert align.config.steps == 558_128 // 256
    assert finetune.config.steps == row.epochs * 665_298 // 128
    assert align.config.image_text_tokens == PRESETS[BASE].llm_max_length


@pytest.mark.parametrize("recipe", [vlm, vlm_align, vlm_finetune, co_finetune])
def test_every_stage_has_settings_that_a_run_can_have_and_fits_its_cards(recipe: Callable[..., tuple]) -> None:
    for stage in recipe(Path("d"), Path("o")):
        check(stage.config)
        assert needs(stage)["memory_bytes"]["peak"] < stage.cards.memory_gb * 2**30


def test_the_second_stage_starts_where_the_first_ends() -> None:
    first, second = vlm(Path("d"), Path("o"))
    assert second.config.checkpoint == str(first.config.output / "final")
    assert (first.config.image_text, second.config.image_text) == (Path("d/align"), Path("d/finetune"))

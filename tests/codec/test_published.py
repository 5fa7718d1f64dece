from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from openvla.codec.codec import Codec
from openvla.codec.images import NORMALIZATION
from openvla.codec.prompt import PROMPTS
from openvla.codec.tokenizer import train_tokenizer
from openvla.errors import CheckpointError, DataError


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    """A copy of the small published checkpoint, without weights, to change."""
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(golden / "micro" / name, tmp_path / name)
    return tmp_path


def load(folder: Path, **changes: Any) -> Codec:
    return Codec.from_published(json.loads((folder / "config.json").read_text()) | changes, folder)


def edit_processor(folder: Path, **changes: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_published_directory_tells_everything_its_codec_needs(folder: Path) -> None:
    codec = load(folder)
    assert (codec.actions.vocab_size, codec.actions.num_bins) == (320, 256)
    assert (codec.bos_token_id, codec.eos_token_id, codec.pad_token_id) == (1, 2, 320)
    assert codec.images.strategy == "resize-naive"
    assert codec.images.sizes == (56, 56)
    assert codec.prompt.template == PROMPTS["openvla"]
    assert list(codec.statistics) == ["toy"]
    assert codec.spec.dim == 7
    assert (codec.chunk, codec.tokenizer, codec.suffix_token_id) == (1, None, None)


def test_its_pixels_equal_the_published_ones(golden: Path) -> None:
    image = np.asarray(Image.open(golden / "micro" / "image.png"))
    expected = load_file(golden / "micro" / "golden.safetensors")["pixel_values"][0]
    assert np.array_equal(load(golden / "micro").encode_image(image), expected)


def test_without_a_tokenizer_tokens_still_decode_but_prompts_do_not(folder: Path) -> None:
    codec = load(folder)
    assert codec.decode_tokens(np.full((1, 7), 192)).tolist()[0] == pytest.approx([0, 0.005, -0.005, 0.05, -0.05, 0, 0])
    with pytest.raises(CheckpointError, match="the checkpoint has no tokenizer, so it cannot read instructions"):
        codec.encode_prompt("wave")


def test_the_applied_normalisation_wins_over_the_nominal_one(folder: Path) -> None:
    rounded = [{"mean": [0.484375, 0.455078125, 0.40625], "std": [0.228515625, 0.2236328125, 0.224609375]}] * 2
    edit_processor(folder, tvf_normalize_params=rounded)
    assert load(folder).images.means[0] == (0.484375, 0.455078125, 0.40625)
    edit_processor(folder, tvf_normalize_params=None)
    assert load(folder).images.means[0] == NORMALIZATION["dinov2"][0]


def test_without_a_processor_file_the_encoders_tell_the_constants(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    assert load(folder).images.means == (NORMALIZATION["dinov2"][0], NORMALIZATION["siglip"][0])
    clip = load(folder, timm_model_ids=["vit_large_patch14_clip_336.openai"], image_sizes=[336]).images
    assert clip.stds == (NORMALIZATION["clip"][1],)
    with pytest.raises(CheckpointError, match=r"config\.json: the vision encoder 'resnet50' is of no known family"):
        load(folder, timm_model_ids=["resnet50", "resnet50"])


def test_a_letterbox_colour_is_taken_over(folder: Path) -> None:
    edit_processor(folder, image_resize_strategy="letterbox", tvf_letterbox_fill=[127, 127, 127])
    assert load(folder).images.fill == (127, 127, 127)


@pytest.mark.parametrize("text", [{}, {"vocab_size": None, "bos_token_id": None, "eos_token_id": None}])
def test_what_the_config_does_not_say_is_as_in_llama(folder: Path, text: dict[str, Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["pad_token_id"], config["pad_to_multiple_of"]
    path.write_text(json.dumps(config))
    codec = load(folder, text_config=text)
    assert codec.actions.vocab_size == codec.pad_token_id == 32000 - 64
    assert (codec.bos_token_id, codec.eos_token_id) == (1, 2)


@pytest.mark.parametrize(
    ("backbone", "prompt"),
    [
        ("vicuna-v15-7b", "openvla-v01"),
        ("llama2-7b-pure", "openvla"),
        ("llama2-13b-chat", "llama2-chat"),
        ("mistral-v0.1-7b-pure", "openvla"),
        ("mistral-v0.1-7b-instruct", "mistral-instruct"),
        ("phi-2-3b", "phi"),
        ("qwen25-0_5b-pure", "qwen"),
        ("another", "openvla"),
    ],
)
def test_the_prompt_goes_with_the_language_model(folder: Path, backbone: str, prompt: str) -> None:
    assert load(folder, llm_backbone_id=backbone).prompt.template == PROMPTS[prompt]


def test_statistics_beside_the_config_win_over_those_in_it(folder: Path) -> None:
    table = json.loads((folder / "config.json").read_text())["norm_stats"]
    (folder / "dataset_statistics.json").write_text(json.dumps({"mine": table["toy"]}))
    assert list(load(folder).statistics) == ["mine"]


def test_no_statistics_are_no_obstacle(folder: Path) -> None:
    assert load(folder, norm_stats=None).statistics == {}


def test_a_llama_sized_vocabulary_without_tokenizer_keeps_llamas_suffix(folder: Path) -> None:
    assert load(folder, text_config={"vocab_size": 32064}).suffix_token_id == 29871


@pytest.mark.parametrize(
    ("backbone", "suffix", "ends"),
    [
        ("vicuna-v15-7b", 29871, (1, 2)),
        ("mistral-v0.1-7b-instruct", 28705, (1, 2)),
        ("phi-2-3b", None, (50256, 50256)),
        ("qwen25-0_5b-extra", None, (151644, 151645)),
    ],
)
def test_special_tokens_go_with_the_language_model(
    folder: Path, backbone: str, suffix: int | None, ends: tuple[int, int]
) -> None:
    codec = load(folder, llm_backbone_id=backbone, text_config={"vocab_size": 160_000})
    assert codec.suffix_token_id == suffix
    assert (codec.bos_token_id, codec.eos_token_id) == ends


def test_a_model_without_a_space_token_gets_none_from_its_tokenizer(folder: Path) -> None:
    train_tokenizer(["go"], 640).save(str(folder / "tokenizer.json"))
    text = {"vocab_size": 640 + 64}
    assert load(folder, text_config=text).suffix_token_id == 259
    qwen = load(folder, text_config=text | {"bos_token_id": 1, "eos_token_id": 2}, llm_backbone_id="qwen25-0_5b-pure")
    assert qwen.suffix_token_id is None


def test_published_directories_prepare_images_as_their_processor_does(folder: Path) -> None:
    assert load(folder).image_pipeline == "processor"


def test_a_processor_that_resizes_more_than_it_crops_is_followed(folder: Path) -> None:
    for size, short_side in (([56, 56], None), (56, None), (62, 62)):
        edit_processor(folder, image_resize_strategy="resize-crop", tvf_resize_params=[{"size": size}] * 2)
        assert load(folder).images.short_side == short_side
    edit_processor(folder, tvf_resize_params=[{"size": 40}] * 2)
    with pytest.raises(CheckpointError, match=r"config\.json: short_side is 40; it must be from 56"):
        load(folder)


@pytest.mark.parametrize("strategy", ["resize-naive", "resize-crop", "letterbox"])
def test_without_a_processor_file_the_quirks_of_native_code_apply(folder: Path, strategy: str) -> None:
    (folder / "preprocessor_config.json").unlink()
    fused = load(folder, image_resize_strategy=strategy).images
    assert len(fused.fills) == (2 if strategy == "letterbox" else 1)
    clip = ["vit_base_patch16_clip_224.openai"]
    small = load(folder, image_resize_strategy=strategy, timm_model_ids=clip, image_sizes=[224]).images
    assert small.short_side == (None if strategy == "resize-naive" else 248)
    large = ["vit_large_patch14_clip_224.openai"]
    assert (
        load(folder, image_resize_strategy=strategy, timm_model_ids=large, image_sizes=[224]).images.short_side is None
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text_config": {"vocab_size": "all"}},
            r"config\.json, text_config: field 'vocab_size' is 'all', but must be an i",
        ),
        ({"text_config": None}, r"config\.json: field 'text_config' is None, but must be an object"),
        ({"text_config": {"vocab_size": 200}}, r"config\.json: 256 action bins do not fit a vocabulary of 136"),
        ({"llm_backbone_id": 7}, r"config\.json: field 'llm_backbone_id' is 7, but must be text"),
        ({"n_action_bins": "all"}, r"config\.json: field 'n_action_bins' is 'all'"),
        ({"norm_stats": []}, r"config\.json: field 'norm_stats' is \[\], but must be an object or null"),
    ],
)
def test_a_damaged_config_is_named_with_its_field(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(folder, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_sizes": [56]}, r"preprocessor_config\.json: field 'input_sizes' is \[56\]"),
        ({"input_sizes": [[3, 56, 56]]}, r"config\.json: an image transform needs one size, mean and std per encoder"),
        ({"tvf_normalize_params": [{"mean": [0, 0, 0]}] * 2}, "tvf_normalize_params lacks the field 'std'"),
    ],
)
def test_a_damaged_processor_file_is_named_with_its_field(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_processor(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_damaged_statistics_are_named_with_their_key(folder: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json, norm_stats 'toy', has no 'action' entry"):
        load(folder, norm_stats={"toy": {}})


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer .*; restore the original file"):
        load(folder)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openvla.errors import CheckpointError
from openvla.model.backbones import CLIP_L_336, DINOV2_L, SIGLIP_SO400M
from openvla.model.presets import PRESETS, model_from_ids
from openvla.model.published import read_model_config, write_config


@pytest.fixture
def config(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "micro" / "config.json").read_text())


@pytest.mark.parametrize("name", PRESETS)
def test_a_written_config_reads_as_the_same_sizes(name: str) -> None:
    config = json.loads(json.dumps(write_config(PRESETS[name])))
    assert read_model_config(config, "config.json") == PRESETS[name].model


@pytest.mark.parametrize(
    ("llm", "size"),
    [("llama2-7b-pure", 32000), ("phi-2-3b", 50257), ("qwen25-0_5b-pure", 151643), ("qwen25-0_5b-extra", 151921)],
)
def test_action_tokens_of_a_written_config_end_at_the_tokenizers_size(llm: str, size: int) -> None:
    config = write_config(model_from_ids("siglip-vit-so400m", llm, "gelu-mlp", "resize-naive"))
    assert config["text_config"]["vocab_size"] - config["pad_to_multiple_of"] == size


@pytest.mark.parametrize("name", ["openvla-7b", "openvla-v01-7b"])
def test_the_short_published_config_gives_the_published_sizes(name: str) -> None:
    preset = PRESETS[name]
    config = {
        "timm_model_ids": list(preset.timm_ids),
        "image_sizes": [224] * len(preset.timm_ids),
        "arch_specifier": "no-align+fused-gelu-mlp" if len(preset.timm_ids) == 2 else "no-align+gelu-mlp",
        "text_config": {"model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16", "vocab_size": 32064},
    }
    assert read_model_config(config, "config.json") == preset.model


def test_encoder_sizes_come_from_the_timm_ids_unless_given(config: dict[str, Any]) -> None:
    del config["encoders"]
    dino, siglip = read_model_config(config | {"image_sizes": [70, 70]}, "config.json").encoders
    assert (dino.dim, dino.depth, dino.prefix_tokens, dino.image_size, dino.num_patches) == (1024, 24, 5, 70, 25)
    assert (siglip.dim, siglip.mlp_dim, siglip.attention_pool) == (1152, 4304, True)


def test_the_pool_is_the_timm_ids_unless_said(config: dict[str, Any]) -> None:
    dino, siglip = read_model_config(config, "config.json").encoders
    assert (dino.attention_pool, siglip.attention_pool) == (False, True)
    config["encoders"][1]["attention_pool"] = False
    assert not read_model_config(config, "config.json").encoders[1].attention_pool


ONE = {
    "timm_model_ids": [SIGLIP_SO400M],
    "image_sizes": [56],
    "encoders": None,
    "timm_override_act_layers": None,
    "vision_backbone_id": "siglip-vit-so400m",
}


@pytest.mark.parametrize(("changes", "projector"), [({}, "fused-gelu-mlp"), (ONE, "gelu-mlp")], ids=["two", "one"])
def test_the_number_of_encoders_decides_where_the_projector_is_not_named(
    config: dict[str, Any], changes: dict[str, Any], projector: str
) -> None:
    assert read_model_config(config | changes | {"arch_specifier": None}, "config.json").projector == projector


@pytest.mark.parametrize("changes", [{}, ONE], ids=["two", "one"])
@pytest.mark.parametrize("projector", ["linear", "gelu-mlp", "fused-gelu-mlp"])
@pytest.mark.parametrize("prefix", ["", "no-align+"])
def test_any_projector_goes_with_any_number_of_encoders(
    config: dict[str, Any], changes: dict[str, Any], projector: str, prefix: str
) -> None:
    named = config | changes | {"arch_specifier": prefix + projector}
    assert read_model_config(named, "config.json").projector == projector


def test_what_is_absent_about_the_encoders_comes_from_the_backbones_id(config: dict[str, Any]) -> None:
    for name in ("timm_model_ids", "image_sizes", "timm_override_act_layers", "encoders"):
        config.pop(name)
    config["vision_backbone_id"] = "dinoclip-vit-l-336px"
    dino, clip = read_model_config(config, "config.json").encoders
    assert (dino.image_size, clip.image_size, dino.activation, clip.activation) == (336, 336, "gelu", "quick_gelu")
    assert (clip.class_position, clip.norm_pre, clip.patch_bias, clip.norm_eps) == (True, True, False, 1e-5)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_dinoclip_keeps_the_activation_it_was_trained_with(activation: str) -> None:
    """A native run has the exact GELU in its CLIP, an export CLIP's own; config.json says which."""
    preset = model_from_ids(
        "dinoclip-vit-l-336px", "vicuna-v15-7b", "no-align+fused-gelu-mlp", native=activation == "gelu"
    )
    config = write_config(preset)
    assert config["timm_override_act_layers"] == [None, None if activation == "gelu" else "quick_gelu"]
    assert read_model_config(config, "config.json").encoders[1].activation == activation


def test_a_history_of_images_is_written_and_read() -> None:
    preset = PRESETS["prism-qwen25-dinosiglip-224px-t2+0_5b+mx-libero-90"]
    assert write_config(preset)["image_sequence_len"] == 2
    assert "image_sequence_len" not in write_config(PRESETS["openvla-7b"])
    assert preset.model.num_patches == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timm_model_ids": "dino"}, "config.json: field 'timm_model_ids' is 'dino', but must be a list of text"),
        ({"text_config": None}, "config.json: field 'text_config' is None, but must be an object"),
        ({"image_sizes": [56.5, 56]}, r"field 'image_sizes' is \[56.5, 56\], but must be a list of an integer"),
        ({"image_sizes": [56]}, "config.json names 2 encoders and 1 image sizes; 1 or 2 of each belong"),
        ({"timm_model_ids": [], "image_sizes": []}, "names 0 encoders and 0 image sizes"),
        ({"timm_model_ids": [DINOV2_L, "resnet50"]}, "config.json: unknown vision encoder 'resnet50'; known are vit_"),
        ({"timm_model_ids": [DINOV2_L, CLIP_L_336[:-2]]}, "did you mean 'vit_large_patch14_clip_336.openai'"),
        (
            {"timm_override_act_layers": [None, "quickgelu"]},
            "unknown activation 'quickgelu'; did you mean 'quick_gelu'",
        ),
        ({"timm_override_act_layers": [None]}, r"has 1 entries for 2 encoder\(s\)"),
        ({"image_sequence_len": 0}, "image_sequence_len is 0; an example has at least 1 image"),
        ({"encoders": [{}]}, "config.json gives sizes of 1 encoders for 2 timm ids"),
        ({"encoders": [{}, {}]}, "config.json, encoders lacks the field 'dim', which must be an integer"),
        ({"image_sizes": [56, 70]}, "the encoders make 16 and 25 patches; fused encoders must make equally many"),
        ({"image_sizes": [7, 7]}, "has 48 channels in 3 heads and 7 px images in patches of 14; heads must divide"),
        ({"arch_specifier": "gelu"}, "config.json: unknown arch_specifier 'gelu'; did you mean 'gelu-mlp'"),
    ],
)
def test_a_config_that_makes_no_model_is_one_sentence(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_model_config(config | changes, "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "must be positive, the depth at least 2, and only prefix_tokens may be 0"),
        ({"depth": 1}, "the depth at least 2"),
        ({"prefix_tokens": -1}, "'prefix_tokens': -1"),
        ({"mlp_dim": 0}, "'mlp_dim': 0"),
        ({"num_heads": 5}, "48 channels in 5 heads"),
        ({"num_heads": True}, "field 'num_heads' is True, but must be an integer"),
        ({"layer_scale": 1}, "field 'layer_scale' is 1, but must be true or false"),
        ({"prefix_tokens": 0, "class_position": True}, "prefix_tokens may be 0, where no class token has a position"),
    ],
)
def test_impossible_encoder_sizes_are_named(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    config["encoders"][0] |= changes
    with pytest.raises(CheckpointError, match=message):
        read_model_config(config, "config.json")

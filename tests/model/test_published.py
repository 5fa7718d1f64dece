from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openvla.errors import CheckpointError
from openvla.model.presets import DINOV2_L, PRESETS, SIGLIP_SO400M
from openvla.model.published import read_model_config, write_config
from openvla.nn.decoder import DecoderConfig


@pytest.fixture
def config(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "micro" / "config.json").read_text())


@pytest.mark.parametrize("name", PRESETS)
def test_a_written_config_reads_as_the_same_sizes(name: str) -> None:
    config = json.loads(json.dumps(write_config(PRESETS[name])))
    assert read_model_config(config, "config.json") == PRESETS[name].model


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


def test_sizes_that_are_absent_or_null_are_llamas(config: dict[str, Any]) -> None:
    expected = DecoderConfig(vocab_size=32000)
    assert read_model_config(config | {"text_config": {}}, "config.json").decoder == expected
    nothing = dict.fromkeys(config["text_config"])
    assert read_model_config(config | {"text_config": nothing}, "config.json").decoder == expected


def test_key_value_heads_are_as_many_as_heads_where_unsaid(config: dict[str, Any]) -> None:
    text = config["text_config"] | {"num_attention_heads": 8, "num_key_value_heads": None}
    assert read_model_config(config | {"text_config": text}, "config.json").decoder.num_key_value_heads == 8
    assert read_model_config(config | {"text_config": text | {"num_key_value_heads": 2}}, "").decoder.head_dim == 8


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


def test_the_number_of_encoders_decides_where_the_projector_is_not_named(config: dict[str, Any]) -> None:
    assert len(read_model_config(config | {"arch_specifier": None}, "config.json").encoders) == 2


ONE = {"timm_model_ids": [SIGLIP_SO400M], "image_sizes": [56], "encoders": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timm_model_ids": "dino"}, "config.json: field 'timm_model_ids' is 'dino', but must be a list of text"),
        ({"text_config": None}, "config.json: field 'text_config' is None, but must be an object"),
        ({"image_sizes": [56.5, 56]}, r"field 'image_sizes' is \[56.5, 56\], but must be a list of an integer"),
        ({"image_sizes": [56]}, "config.json names 2 encoders and 1 image sizes; 1 or 2 of each belong"),
        ({"timm_model_ids": [], "image_sizes": []}, "names 0 encoders and 0 image sizes"),
        ({"timm_model_ids": [DINOV2_L, "resnet50"]}, "names the encoder 'resnet50', which is unknown; known are vit_"),
        ({"timm_override_act_layers": [None, "quick_gelu"]}, r"overrides activations \(\[None, 'quick_gelu'\]\)"),
        ({"encoders": [{}]}, "config.json gives sizes of 1 encoders for 2 timm ids"),
        ({"encoders": [{}, {}]}, "config.json, encoders lacks the field 'dim', which must be an integer"),
        ({"image_sizes": [56, 70]}, "the encoders make 16 and 25 patches; fused encoders must make equally many"),
        ({"image_sizes": [7, 7]}, "has 48 channels in 3 heads and 7 px images in patches of 14; heads must divide"),
        ({"arch_specifier": "gelu-mlp"}, r"'gelu-mlp' does not go with 2 encoder\(s\); one takes 'gelu-mlp', two"),
        ({"arch_specifier": "linear"}, "arch_specifier 'linear' does not go with 2 encoder"),
        (ONE, r"'no-align\+fused-gelu-mlp' does not go with 1 encoder"),
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
    ],
)
def test_impossible_encoder_sizes_are_named(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    config["encoders"][0] |= changes
    with pytest.raises(CheckpointError, match=message):
        read_model_config(config, "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2"}, r"text_config: model_type is 'qwen2'; only 'llama' \(Llama\) is supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu'"),
        ({"attention_bias": True}, "attention_bias is True; only False"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True; only False"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling is {'type': 'linear'}; only None"),
        ({"hidden_size": "64"}, "field 'hidden_size' is '64', but must be an integer"),
        ({"rms_norm_eps": True}, "field 'rms_norm_eps' is True, but must be a finite number"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers': 0.* do not fit; all are positive"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "do not fit; .* key/value heads divide heads"),
        ({"hidden_size": 60, "num_attention_heads": 4}, "twice the heads divide the hidden size"),
    ],
)
def test_a_decoder_that_is_no_llama_is_named(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    config["text_config"] |= changes
    with pytest.raises(CheckpointError, match=message):
        read_model_config(config, "config.json")

from __future__ import annotations

import pytest
import torch
from torch import nn

from openvla.model.presets import DINOV2_L, ENCODERS, PRESETS
from openvla.model.prismatic import OpenVLA
from openvla.nn.vit import VisionTransformer
from openvla.train.methods import count_parameters, prepare


def on_meta(preset: str) -> OpenVLA:
    with torch.device("meta"):
        return OpenVLA(PRESETS[preset].model)


def size(module: nn.Module) -> int:
    return count_parameters(module)[0]


@pytest.mark.parametrize(
    ("preset", "tensors", "total", "vision", "projector"),
    [
        ("openvla-7b", 982, 7_541_237_184, 730_911_680, 71_385_600),
        ("openvla-v01-7b", 637, 7_188_124_608, 427_680_704, 21_504_000),
    ],
)
def test_a_published_model_has_the_published_number_of_tensors_and_parameters(
    preset: str, tensors: int, total: int, vision: int, projector: int
) -> None:
    model = on_meta(preset)
    assert len(model.state_dict()) == tensors
    assert size(model) == total
    assert size(model.vision_backbone) == vision
    assert size(model.projector) == projector
    language = model.language_model
    assert size(language) == 6_738_939_904
    assert size(language.model.embed_tokens) == size(language.lm_head) == 131_334_144
    assert {size(layer) for layer in language.model.layers} == {202_383_360}
    assert size(language.model.norm) == 4096


def test_tensors_have_their_published_names() -> None:
    names = set(on_meta("openvla-7b").state_dict())
    assert {
        "vision_backbone.featurizer.cls_token",
        "vision_backbone.featurizer.reg_token",
        "vision_backbone.featurizer.pos_embed",
        "vision_backbone.featurizer.patch_embed.proj.bias",
        "vision_backbone.featurizer.blocks.23.ls1.scale_factor",
        "vision_backbone.featurizer.blocks.0.attn.qkv.weight",
        "vision_backbone.featurizer.norm.weight",
        "vision_backbone.fused_featurizer.blocks.26.mlp.fc2.bias",
        "vision_backbone.fused_featurizer.attn_pool.latent",
        "vision_backbone.fused_featurizer.attn_pool.kv.weight",
        "vision_backbone.fused_featurizer.attn_pool.mlp.fc1.weight",
        "projector.fc3.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.31.self_attn.k_proj.weight",
        "language_model.model.layers.31.mlp.gate_proj.weight",
        "language_model.model.layers.0.post_attention_layernorm.weight",
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
    } <= names
    assert not any("inv_freq" in name or "mask" in name for name in names)


@pytest.mark.parametrize(("preset", "adapters"), [("openvla-7b", 110_828_288), ("openvla-v01-7b", 97_603_968)])
def test_low_rank_adapters_have_the_published_number_of_parameters(preset: str, adapters: int) -> None:
    with torch.device("meta"):
        adapted = prepare(OpenVLA(PRESETS[preset].model), "lora", rank=32, seed=0)
    assert count_parameters(adapted)[1] == adapters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (DINOV2_L, 303_230_976),
        ("vit_so400m_patch14_siglip_224", 427_680_704),
        ("vit_so400m_patch14_siglip_384", 428_225_600),
        ("vit_base_patch16_siglip_224", 92_884_224),
        ("vit_base_patch16_siglip_256", 92_930_304),
        ("vit_base_patch16_siglip_384", 93_176_064),
    ],
)
def test_an_encoder_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert size(VisionTransformer(ENCODERS[name])) == parameters


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs(preset: str) -> None:
    model = on_meta(preset)
    config = model.config
    pixels = torch.empty(1, 3 * len(config.encoders), *[config.encoders[0].image_size] * 2, device="meta")
    logits = model(torch.ones(1, 5, dtype=torch.long, device="meta"), pixels).logits
    assert logits.shape == (1, 5 + config.num_patches, config.decoder.vocab_size)


def test_the_small_presets_are_small() -> None:
    assert size(on_meta("nano")) * 2 < 25e6
    assert size(on_meta("micro")) < 1e6

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from openvla.errors import CheckpointError
from openvla.model.presets import PRESETS, model_from_ids, projector_of
from openvla.model.prismatic import OpenVLA
from openvla.train.methods import count_parameters


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


@pytest.mark.parametrize("preset", ["openvla-7b", "nano", "micro"])
def test_a_preset_runs(preset: str) -> None:
    model = on_meta(preset)
    config = model.config
    pixels = torch.empty(1, 3 * len(config.encoders), *[config.encoders[0].image_size] * 2, device="meta")
    logits = model(torch.ones(1, 5, dtype=torch.long, device="meta"), pixels).logits
    assert logits.shape == (1, 5 + config.num_patches, config.decoder.vocab_size)


def test_the_small_presets_are_small() -> None:
    assert size(on_meta("nano")) * 2 < 25e6
    assert size(on_meta("micro")) < 1e6


def test_an_export_differs_from_its_native_run_in_the_epsilon_alone() -> None:
    native, export = PRESETS["prism-dinosiglip-224px+mx-oxe-magic-soup-plus"], PRESETS["openvla-7b"]
    assert native.model.decoder.rms_norm_eps == 1e-5
    assert export.model.decoder.rms_norm_eps == 1e-6
    decoder = replace(native.model.decoder, rms_norm_eps=1e-6)
    assert replace(native, model=replace(native.model, decoder=decoder)) == export


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            ("siglip-vit-so400", "llama2-7b-pure", "linear"),
            "unknown vision backbone .* did you mean 'siglip-vit-so400m'",
        ),
        (("dinov2-vit-l", "llama2-7b", "linear"), "unknown language model 'llama2-7b'; did you mean 'llama2-7b-"),
        (("dinov2-vit-l", "phi-2-3b", "no-align+gelu"), r"arch_specifier 'no-align\+gelu'"),
    ],
)
def test_an_unknown_id_offers_the_nearest(ids: tuple[str, str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"run.json: .*{message}"):
        model_from_ids(*ids, where="run.json")


def test_the_prefix_of_the_arch_specifier_is_about_training_alone() -> None:
    assert projector_of("no-align+fused-gelu-mlp", "") == projector_of("fused-gelu-mlp", "") == "fused-gelu-mlp"
    assert projector_of("no-align+gelu-mlp", "") == "gelu-mlp"


def test_only_a_native_dinoclip_has_the_exact_gelu_in_its_clip() -> None:
    def activations(vision: str, *, native: bool) -> list[str]:
        encoders = model_from_ids(vision, "vicuna-v15-7b", "gelu-mlp", native=native).model.encoders
        return [encoder.activation for encoder in encoders]

    assert activations("dinoclip-vit-l-336px", native=True) == ["gelu", "gelu"]
    assert activations("dinoclip-vit-l-336px", native=False) == ["gelu", "quick_gelu"]
    assert activations("clip-vit-l", native=True) == activations("clip-vit-b", native=False) == ["quick_gelu"]
    assert activations("siglip-vit-so400m", native=True) == ["gelu"]

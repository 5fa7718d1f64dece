from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from openvla.nn.vit import Activation, VisionTransformer, ViTConfig, quick_gelu

DINO = ViTConfig(30, 7, 27, 3, 3, 54, prefix_tokens=5, layer_scale=True)
SIGLIP = ViTConfig(28, 7, 20, 3, 4, 33, attention_pool=True)
CLIP = ViTConfig(
    28, 7, 20, 3, 4, 33, 1, norm_eps=1e-5, class_position=True, norm_pre=True, patch_bias=False, activation="quick_gelu"
)
IN1K = ViTConfig(28, 7, 20, 3, 4, 33, 1, class_position=True)


def randomised(config: ViTConfig) -> VisionTransformer:
    """An encoder in which every weight matters."""
    torch.manual_seed(0)
    encoder = VisionTransformer(config).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Our weights under another library's names, which keeps queries, keys and values apart."""
    theirs: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith("attn_pool"):
            continue
        for ours, other in names.items():
            name = name.replace(ours, other)
        parts = zip("qkv", value.chunk(3), strict=True) if "{}" in name else [("", value)]
        theirs |= {name.format(part): values for part, values in parts}
    return theirs


def test_a_dinov2_encoder_agrees_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    encoder = randomised(DINO)
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=27, num_hidden_layers=3, num_attention_heads=3, mlp_ratio=2, image_size=28, patch_size=7,
        num_register_tokens=4, layer_norm_eps=1e-6, hidden_act="gelu", attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.Dinov2WithRegistersModel(config).eval()
    names = {
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks": "encoder.layer",
        "attn.qkv": "attention.{}_proj",
        "attn.proj": "attention.o_proj",
        "ls1.scale_factor": "layer_scale1.lambda1",
        "ls2.scale_factor": "layer_scale2.lambda1",
    }
    weights = renamed(encoder.state_dict(), names)
    weights = {name.replace("norm.", "layernorm.") if name[:4] == "norm" else name: w for name, w in weights.items()}
    weights["embeddings.mask_token"] = torch.zeros(1, 27)
    place = "embeddings.position_embeddings"  # their class token has a position of its own
    weights[place] = torch.cat([torch.zeros(1, 1, 27), weights[place]], dim=1)
    theirs.load_state_dict(weights)
    pixels = torch.randn(2, 3, 30, 30)
    with torch.inference_mode():
        expected = theirs(pixels[..., :28, :28], output_hidden_states=True).hidden_states[-2][:, 5:]
        torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-5)


def test_a_siglip_encoder_agrees_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    encoder = randomised(SIGLIP)
    config = transformers.SiglipVisionConfig(
        hidden_size=20, num_hidden_layers=3, num_attention_heads=4, intermediate_size=33, image_size=28, patch_size=7,
        layer_norm_eps=1e-6, hidden_act="gelu", vision_use_head=False, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.SiglipVisionModel(config).eval()
    names = {
        "pos_embed": "embeddings.position_embedding.weight",
        "patch_embed.proj": "embeddings.patch_embedding",
        "blocks": "encoder.layers",
        "attn.qkv": "self_attn.{}_proj",
        "attn.proj": "self_attn.out_proj",
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
    }
    weights = renamed(encoder.state_dict(), names)
    weights = {f"post_layer{name}" if name[:5] == "norm." else name: w for name, w in weights.items()}
    weights["embeddings.position_embedding.weight"] = weights["embeddings.position_embedding.weight"][0]
    theirs.load_state_dict(weights)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_clip_encoder_agrees_with_transformers(activation: Activation) -> None:
    transformers = pytest.importorskip("transformers")
    encoder = randomised(replace(CLIP, activation=activation))
    config = transformers.CLIPVisionConfig(
        hidden_size=20, num_hidden_layers=3, num_attention_heads=4, intermediate_size=33, image_size=28, patch_size=7,
        layer_norm_eps=1e-5, hidden_act=activation, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.CLIPVisionModel(config).eval()
    names = {
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding.weight",
        "patch_embed.proj": "embeddings.patch_embedding",
        "norm_pre": "pre_layrnorm",
        "blocks": "encoder.layers",
        "attn.qkv": "self_attn.{}_proj",
        "attn.proj": "self_attn.out_proj",
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
    }
    weights = renamed(encoder.state_dict(), names)
    weights = {f"post_layer{name}" if name[:5] == "norm." else name: w for name, w in weights.items()}
    for name in ("embeddings.class_embedding", "embeddings.position_embedding.weight"):
        weights[name] = weights[name].squeeze()
    theirs.load_state_dict(weights)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-5)


def test_an_in1k_encoder_agrees_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    encoder = randomised(IN1K)
    config = transformers.ViTConfig(
        hidden_size=20, num_hidden_layers=3, num_attention_heads=4, intermediate_size=33, image_size=28, patch_size=7,
        layer_norm_eps=1e-6, hidden_act="gelu", attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.ViTModel(config, add_pooling_layer=False).eval()
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks": "layers",
        "attn.qkv": "attention.{}_proj",
        "attn.proj": "attention.o_proj",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
    }
    weights = renamed(encoder.state_dict(), names)
    weights = {name.replace("norm.", "layernorm.") if name[:5] == "norm." else name: w for name, w in weights.items()}
    theirs.load_state_dict(weights)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-5)


def test_quick_gelu_is_another_function_than_the_gelu() -> None:
    x = torch.linspace(-3, 3, 25)
    torch.testing.assert_close(quick_gelu(x), x / (1 + torch.exp(-1.702 * x)))
    assert (quick_gelu(x) - torch.nn.functional.gelu(x)).abs().max() > 0.01


@pytest.mark.parametrize(("size", "patches"), [(28, 16), (30, 16), (35, 25), (7, 1)])
def test_pixels_beyond_the_last_whole_patch_are_unused(size: int, patches: int) -> None:
    encoder = randomised(ViTConfig(size, 7, 20, 2, 4, 33))
    pixels = torch.randn(1, 3, size, size)
    features = encoder(pixels)
    assert features.shape == (1, patches, 20)
    pixels[..., size // 7 * 7 :] = 9.0
    assert torch.equal(encoder(pixels), features)


@pytest.mark.parametrize("config", [DINO, SIGLIP, CLIP, IN1K], ids=["dinov2", "siglip", "clip", "in1k"])
def test_the_last_block_the_final_norm_and_the_pool_never_run(config: ViTConfig) -> None:
    encoder = randomised(config)
    encoder(torch.randn(1, 3, config.image_size, config.image_size)).sum().backward()
    idle = {name.split(".")[0] for name, parameter in encoder.named_parameters() if parameter.grad is None}
    assert idle == {"blocks", "norm"} | ({"attn_pool"} if config.attention_pool else set())
    assert all(parameter.grad is None for parameter in encoder.blocks[-1].parameters())
    assert all(parameter.grad is not None for parameter in encoder.blocks[-2].parameters())


def test_a_class_token_needs_no_registers() -> None:
    encoder = randomised(ViTConfig(14, 7, 20, 2, 4, 33, prefix_tokens=1))
    assert "cls_token" in encoder.state_dict()
    assert "reg_token" not in encoder.state_dict()
    assert encoder(torch.randn(1, 3, 14, 14)).shape == (1, 4, 20)


def test_pictures_of_a_batch_do_not_mix() -> None:
    encoder = randomised(DINO)
    pixels = torch.randn(3, 3, 30, 30)
    torch.testing.assert_close(encoder(pixels), torch.cat([encoder(picture[None]) for picture in pixels]))

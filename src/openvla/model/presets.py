"""Every model size, one row each, with its source.

Source: published checkpoints and their configs (Karamcheti et al. 2024; Kim et al. 2024); encoder sizes as timm defines
them under the ids below. `nano` and `micro` are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla.model.prismatic import ModelConfig
from openvla.nn.decoder import DecoderConfig
from openvla.nn.vit import ViTConfig

DINOV2_L = "vit_large_patch14_reg4_dinov2.lvd142m"
SIGLIP_SO400M = "vit_so400m_patch14_siglip_224"

_SIGLIP_B16 = ViTConfig(224, 16, 768, 12, 12, 3072, attention_pool=True)

ENCODERS: dict[str, ViTConfig] = {
    # timm id: image, patch, dim, depth, heads, mlp, prefix tokens, layer scale, attention pool
    DINOV2_L: ViTConfig(224, 14, 1024, 24, 16, 4096, 5, True, False),
    SIGLIP_SO400M: ViTConfig(224, 14, 1152, 27, 16, 4304, 0, False, True),
    "vit_so400m_patch14_siglip_384": ViTConfig(384, 14, 1152, 27, 16, 4304, 0, False, True),
    "vit_base_patch16_siglip_224": _SIGLIP_B16,
    "vit_base_patch16_siglip_256": replace(_SIGLIP_B16, image_size=256),
    "vit_base_patch16_siglip_384": replace(_SIGLIP_B16, image_size=384),
}

DECODERS: dict[str, DecoderConfig] = {
    "llama2-7b-pure": DecoderConfig(),
    "vicuna-v15-7b": DecoderConfig(),
}


@dataclass(frozen=True)
class Preset:
    """A model by its parts, in the words of a published config.json.

    vision_backbone, timm_ids, llm_backbone: published ids. model: the sizes.
    """

    vision_backbone: str
    timm_ids: tuple[str, ...]
    llm_backbone: str
    model: ModelConfig


def _published(vision_backbone: str, timm_ids: tuple[str, ...], llm_backbone: str) -> Preset:
    encoders = tuple(ENCODERS[name] for name in timm_ids)
    return Preset(vision_backbone, timm_ids, llm_backbone, ModelConfig(encoders, DECODERS[llm_backbone]))


def _small(encoders: tuple[ViTConfig, ...], decoder: DecoderConfig) -> Preset:
    """A small model of the published families: SigLIP alone, or DINOv2 and SigLIP."""
    single = len(encoders) == 1
    return Preset(
        "siglip-vit-so400m" if single else "dinosiglip-vit-so-224px",
        (SIGLIP_SO400M,) if single else (DINOV2_L, SIGLIP_SO400M),
        "llama2-7b-pure",
        ModelConfig(encoders, decoder),
    )


NANO_VOCAB = 1536
"""Text pieces, then the 256 action bins; 64 more rows pad the embedding, the first of them is the pad token."""

_NANO_DECODER = DecoderConfig(
    vocab_size=NANO_VOCAB + 64,
    hidden_size=256,
    intermediate_size=688,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
)

PRESETS: dict[str, Preset] = {
    "openvla-7b": _published("dinosiglip-vit-so-224px", (DINOV2_L, SIGLIP_SO400M), "llama2-7b-pure"),
    "openvla-v01-7b": _published("siglip-vit-so400m", (SIGLIP_SO400M,), "vicuna-v15-7b"),
    # For one CPU: 7x7 patches, five encoder blocks (the last is never run), four decoder layers.
    "nano": _small((ViTConfig(112, 16, 192, 6, 6, 768),), _NANO_DECODER),
    # For tests: both encoders, grouped-query attention, milliseconds.
    "micro": _small(
        (ViTConfig(28, 14, 24, 2, 2, 48, 5, True), ViTConfig(28, 14, 16, 2, 2, 32)),
        replace(_NANO_DECODER, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_key_value_heads=2),
    ),
}

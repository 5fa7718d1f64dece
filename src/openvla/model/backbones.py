"""The parts that published models are put together from: encoders, vision backbones and language models, one row each.

Source: Karamcheti et al. 2024 (Prismatic) and its configuration; Belkhale and Sadigh 2024 (MiniVLA) for Qwen; encoder
sizes as timm defines them under the ids below; language models as in the configuration of their hub repository.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla.nn.decoder_config import DecoderConfig
from openvla.nn.vit import Activation, ViTConfig

DINOV2_L = "vit_large_patch14_reg4_dinov2.lvd142m"
SIGLIP_SO400M = "vit_so400m_patch14_siglip_224"
SIGLIP_SO400M_384 = "vit_so400m_patch14_siglip_384"
CLIP_L_336 = "vit_large_patch14_clip_336.openai"

_DINO = ViTConfig(224, 14, 1024, 24, 16, 4096, prefix_tokens=5, layer_scale=True)
_SIGLIP = ViTConfig(224, 14, 1152, 27, 16, 4304, attention_pool=True)
_SIGLIP_B = ViTConfig(224, 16, 768, 12, 12, 3072, attention_pool=True)
_CLIP = ViTConfig(224, 14, 1024, 24, 16, 4096, 1, norm_eps=1e-5, class_position=True, norm_pre=True, patch_bias=False)

ENCODERS: dict[str, ViTConfig] = {
    # timm id: sizes. The activation is the exact GELU for all: CLIP's own is the backbone's to ask for.
    DINOV2_L: _DINO,
    SIGLIP_SO400M: _SIGLIP,
    SIGLIP_SO400M_384: replace(_SIGLIP, image_size=384),
    "vit_base_patch16_siglip_224": _SIGLIP_B,
    "vit_base_patch16_siglip_256": replace(_SIGLIP_B, image_size=256),
    "vit_base_patch16_siglip_384": replace(_SIGLIP_B, image_size=384),
    "vit_large_patch14_clip_224.openai": _CLIP,
    CLIP_L_336: replace(_CLIP, image_size=336),
    "vit_base_patch16_clip_224.openai": replace(_CLIP, patch_size=16, dim=768, depth=12, num_heads=12, mlp_dim=3072),
    "vit_large_patch16_224.augreg_in21k_ft_in1k": ViTConfig(224, 16, 1024, 24, 16, 4096, 1, class_position=True),
}


@dataclass(frozen=True)
class VisionBackbone:
    """One or two encoders at one image size.

    activations: of each encoder, in a published Hugging Face export.
    native_activations: in a Prismatic-native run, where they differ: there the CLIP of DinoCLIP has the exact GELU,
        while CLIP alone has its own. The same weights, other features.
    """

    timm_ids: tuple[str, ...]
    image_size: int
    activations: tuple[Activation, ...]
    native_activations: tuple[Activation, ...]

    def encoders(self, native: bool) -> tuple[ViTConfig, ...]:
        """The encoders' sizes, as a Prismatic-native run has them or a Hugging Face export."""
        activations = self.native_activations if native else self.activations
        return tuple(
            replace(ENCODERS[name], image_size=self.image_size, activation=activation)
            for name, activation in zip(self.timm_ids, activations, strict=True)
        )


def _one(timm_id: str, image_size: int, activation: Activation = "gelu") -> VisionBackbone:
    return VisionBackbone((timm_id,), image_size, (activation,), (activation,))


def _two(second: str, image_size: int, activation: Activation = "gelu") -> VisionBackbone:
    """DINOv2 and another encoder."""
    return VisionBackbone((DINOV2_L, second), image_size, ("gelu", activation), ("gelu", "gelu"))


VISION_BACKBONES: dict[str, VisionBackbone] = {
    "clip-vit-l": _one("vit_large_patch14_clip_224.openai", 224, "quick_gelu"),
    "clip-vit-l-336px": _one(CLIP_L_336, 336, "quick_gelu"),
    "clip-vit-b": _one("vit_base_patch16_clip_224.openai", 224, "quick_gelu"),
    "siglip-vit-so400m": _one(SIGLIP_SO400M, 224),
    "siglip-vit-so400m-384px": _one(SIGLIP_SO400M_384, 384),
    "siglip-vit-b16-224px": _one("vit_base_patch16_siglip_224", 224),
    "siglip-vit-b16-256px": _one("vit_base_patch16_siglip_256", 256),
    "siglip-vit-b16-384px": _one("vit_base_patch16_siglip_384", 384),
    "dinov2-vit-l": _one(DINOV2_L, 224),
    "in1k-vit-l": _one("vit_large_patch16_224.augreg_in21k_ft_in1k", 224),
    "dinosiglip-vit-so-224px": _two(SIGLIP_SO400M, 224),
    "dinosiglip-vit-so-384px": _two(SIGLIP_SO400M_384, 384),
    "dinoclip-vit-l-336px": _two(CLIP_L_336, 336, "quick_gelu"),
}


@dataclass(frozen=True)
class LanguageModel:
    """A language model as a Prismatic-native run has it: its sizes, after the vocabulary grew.

    hub: repository of the original weights.
    padding: rows of the embedding beyond the tokenizer's size, where action tokens end; an export calls it
        `pad_to_multiple_of`, and it is 64 only where the vocabulary was a multiple of that.
    """

    decoder: DecoderConfig
    hub: str
    padding: int = 64


_LLAMA_7B = DecoderConfig(rms_norm_eps=1e-5)
_LLAMA_13B = DecoderConfig(32064, 5120, 13824, 40, 40, 40, 1e-5)
_MISTRAL = DecoderConfig(32064, 4096, 14336, 32, 32, 8, 1e-5, family="mistral", sliding_window=4096)
_PHI_2 = DecoderConfig(50304, 2560, 10240, 32, 32, 32, 1e-5, family="phi", partial_rotary_factor=0.4)
_QWEN_05B = DecoderConfig(151680, 896, 4864, 24, 14, 2, 1e-6, 1e6, family="qwen2", tie_word_embeddings=True)
_QWEN_15B = replace(
    _QWEN_05B,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
)
_QWEN_3B = replace(
    _QWEN_05B,
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
)

LANGUAGE_MODELS: dict[str, LanguageModel] = {
    "llama2-7b-pure": LanguageModel(_LLAMA_7B, "meta-llama/Llama-2-7b-hf"),
    "llama2-7b-chat": LanguageModel(_LLAMA_7B, "meta-llama/Llama-2-7b-chat-hf"),
    "llama2-13b-pure": LanguageModel(_LLAMA_13B, "meta-llama/Llama-2-13b-hf"),
    "llama2-13b-chat": LanguageModel(_LLAMA_13B, "meta-llama/Llama-2-13b-chat-hf"),
    "vicuna-v15-7b": LanguageModel(_LLAMA_7B, "lmsys/vicuna-7b-v1.5"),
    "vicuna-v15-13b": LanguageModel(_LLAMA_13B, "lmsys/vicuna-13b-v1.5"),
    "mistral-v0.1-7b-pure": LanguageModel(_MISTRAL, "mistralai/Mistral-7B-v0.1"),
    "mistral-v0.1-7b-instruct": LanguageModel(_MISTRAL, "mistralai/Mistral-7B-Instruct-v0.1"),
    "phi-2-3b": LanguageModel(_PHI_2, "microsoft/phi-2", 50304 - 50257),
    "qwen25-0_5b-pure": LanguageModel(_QWEN_05B, "Qwen/Qwen2.5-0.5B", 151680 - 151643),
    "qwen25-0_5b-extra": LanguageModel(replace(_QWEN_05B, vocab_size=151936), "Qwen/Qwen2.5-0.5B", 151936 - 151921),
    "qwen25-1_5b-pure": LanguageModel(_QWEN_15B, "Qwen/Qwen2.5-1.5B", 151680 - 151643),
    "qwen25-3b-pure": LanguageModel(_QWEN_3B, "Qwen/Qwen2.5-3B", 151680 - 151643),
}

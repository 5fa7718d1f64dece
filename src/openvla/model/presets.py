"""Every model by name: the published ones from the registry, and the small ones of our own.

A registry id gives the model as Prismatic-native runs have it; `openvla-7b` and `openvla-v01-7b` as their Hugging Face
exports have it, where the norms of the language model divide with another epsilon. `nano` and `micro` are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla.codec.families import FAMILIES
from openvla.errors import CheckpointError, unknown
from openvla.model.backbones import DINOV2_L, ENCODERS, LANGUAGE_MODELS, SIGLIP_SO400M, VISION_BACKBONES
from openvla.model.prismatic import ModelConfig
from openvla.model.projector import PROJECTORS, ProjectorName
from openvla.model.registry import VLAS, VLMS
from openvla.nn.decoder_config import DecoderConfig
from openvla.nn.vit import ViTConfig

__all__ = ["DINOV2_L", "ENCODERS", "NANO_VOCAB", "PRESETS", "SIGLIP_SO400M", "Preset", "model_from_ids"]


@dataclass(frozen=True)
class Preset:
    """A model by its parts, in the words of a published config.json.

    vision_backbone, timm_ids, llm_backbone, arch_specifier: published ids. model: the sizes.
    resize: how images are brought to size. prompt: a key of `codec.prompt.PROMPTS`.
    pad_token: id that fills up a batch. llm_max_length: tokens of text that were trained on at most.
    source: where the row comes from.
    """

    vision_backbone: str
    timm_ids: tuple[str, ...]
    llm_backbone: str
    arch_specifier: str
    model: ModelConfig
    resize: str = "resize-naive"
    prompt: str = "pure"
    pad_token: int = 32000
    llm_max_length: int = 2048
    source: str = "this package"


def model_from_ids(
    vision_backbone_id: str,
    llm_backbone_id: str,
    arch_specifier: str,
    image_resize_strategy: str = "resize-naive",
    *,
    images: int = 1,
    native: bool = True,
    where: str = "the preset",
) -> Preset:
    """The model that published ids name.

    images: pictures per example. native: as a Prismatic-native run has it, rather than a Hugging Face export.
    where: names the file in errors. Raises CheckpointError, with the nearest names, for an unknown id.
    """
    for name, table, kind in (
        (vision_backbone_id, VISION_BACKBONES, "vision backbone"),
        (llm_backbone_id, LANGUAGE_MODELS, "language model"),
    ):
        if name not in table:
            raise CheckpointError(f"{where}: {unknown(name, table, kind)}")
    vision, language = VISION_BACKBONES[vision_backbone_id], LANGUAGE_MODELS[llm_backbone_id]
    projector = projector_of(arch_specifier, where)
    return Preset(
        vision_backbone_id,
        vision.timm_ids,
        llm_backbone_id,
        arch_specifier,
        ModelConfig(vision.encoders(native), language.decoder, projector, images),
        image_resize_strategy,
        FAMILIES[llm_backbone_id].chat,
        FAMILIES[llm_backbone_id].pad,
    )


def projector_of(arch_specifier: str, where: str) -> ProjectorName:
    """The projector of a published arch_specifier, whose prefix ("no-align+") is about training alone.

    Raises CheckpointError for one that ends in no projector's name.
    """
    name = arch_specifier.rpartition("+")[2]
    for projector in PROJECTORS:
        if name == projector:
            return projector
    raise CheckpointError(f"{where}: {unknown(arch_specifier, PROJECTORS, 'arch_specifier')}")


def _registered() -> dict[str, Preset]:
    """Every row of the registry."""
    presets: dict[str, Preset] = {}
    for name, vlm in VLMS.items():
        preset = model_from_ids(vlm.vision, vlm.llm, vlm.arch, vlm.resize)
        presets[name] = replace(preset, llm_max_length=vlm.llm_max_length, source=vlm.source)
    for name, vla in VLAS.items():
        base = presets[vla.base]
        presets[name] = replace(base, model=replace(base.model, images=vla.images), source=vla.source)
    return presets


_REGISTERED = _registered()


def _exported(name: str) -> Preset:
    """A registered 7B model as its published Hugging Face export has it: without Llama's own epsilon."""
    preset = _REGISTERED[name]
    decoder = replace(preset.model.decoder, rms_norm_eps=1e-6)
    return replace(preset, model=replace(preset.model, decoder=decoder))


def _small(encoders: tuple[ViTConfig, ...], decoder: DecoderConfig) -> Preset:
    """A small model of the published families: SigLIP alone, or DINOv2 and SigLIP."""
    single = len(encoders) == 1
    return Preset(
        "siglip-vit-so400m" if single else "dinosiglip-vit-so-224px",
        (SIGLIP_SO400M,) if single else (DINOV2_L, SIGLIP_SO400M),
        "llama2-7b-pure",
        "no-align+gelu-mlp" if single else "no-align+fused-gelu-mlp",
        ModelConfig(encoders, decoder, "gelu-mlp" if single else "fused-gelu-mlp"),
        pad_token=NANO_VOCAB,
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
    **_REGISTERED,
    "openvla-7b": _exported("prism-dinosiglip-224px+mx-oxe-magic-soup-plus"),
    "openvla-v01-7b": _exported("siglip-224px+mx-oxe-magic-soup"),
    # For one CPU: 7x7 patches, five encoder blocks (the last is never run), four decoder layers.
    "nano": _small((ViTConfig(112, 16, 192, 6, 6, 768),), _NANO_DECODER),
    # For tests: both encoders, grouped-query attention, milliseconds.
    "micro": _small(
        (ViTConfig(28, 14, 24, 2, 2, 48, 5, True), ViTConfig(28, 14, 16, 2, 2, 32)),
        replace(_NANO_DECODER, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_key_value_heads=2),
    ),
}

"""The published config.json (`model_type` "openvla"), both directions: its words to sizes, and sizes to its words.

Encoder sizes come from the timm ids, unless the key `encoders` gives them; what the file leaves out about the encoders
comes from its `vision_backbone_id`, as in the published class, so that CLIP has its own activation unless
`timm_override_act_layers` says otherwise. The language model is in `text_config`.
Source: the files of openvla/openvla-7b; the published configuration classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from openvla.codec.fields import INTEGER, NUMBER, OBJECT, TEXT, Kind, list_of, nullable, some_fields
from openvla.errors import CheckpointError, unknown
from openvla.model.backbones import ENCODERS, LANGUAGE_MODELS, VISION_BACKBONES, VisionBackbone
from openvla.model.presets import Preset, projector_of
from openvla.model.prismatic import ModelConfig
from openvla.model.text_config import FLAG, read_decoder, write_decoder
from openvla.nn.vit import ACTIVATIONS, ViTConfig

_CONFIG = {
    "vision_backbone_id": nullable(TEXT),
    "llm_backbone_id": nullable(TEXT),
    "timm_model_ids": list_of(TEXT),
    "image_sizes": list_of(INTEGER),
    "timm_override_act_layers": nullable(list_of(nullable(TEXT))),
    "arch_specifier": nullable(TEXT),
    "text_config": OBJECT,
    "encoders": nullable(list_of(OBJECT)),
    "image_sequence_len": nullable(INTEGER),
}
_OPTIONAL = (
    "vision_backbone_id",
    "llm_backbone_id",
    "timm_override_act_layers",
    "arch_specifier",
    "encoders",
    "image_sequence_len",
)
_ENCODER: dict[str, Kind] = {
    "dim": INTEGER,
    "depth": INTEGER,
    "num_heads": INTEGER,
    "mlp_dim": INTEGER,
    "patch_size": INTEGER,
    "prefix_tokens": INTEGER,
    "layer_scale": FLAG,
    "attention_pool": FLAG,
    "class_position": FLAG,
    "norm_pre": FLAG,
    "patch_bias": FLAG,
    "norm_eps": NUMBER,
}
_OF_FAMILY = ("attention_pool", "class_position", "norm_pre", "patch_bias", "norm_eps")
"""What the timm id says where the key `encoders` does not."""


def read_model_config(config: Mapping[str, Any], where: str) -> ModelConfig:
    """The sizes in a published config.json; `where` names the file in errors.

    Raises CheckpointError for absent or mistyped fields, unknown encoders, and what the decoder is not built for.
    """
    given = {name: value for name, value in config.items() if value is not None or name not in _OPTIONAL}
    fields = some_fields(given, _CONFIG, where, dict.fromkeys(_OPTIONAL) | _of_backbone(given))
    names, sizes = fields["timm_model_ids"], fields["image_sizes"]
    if not 1 <= len(names) == len(sizes) <= 2:
        raise CheckpointError(
            f"{where} names {len(names)} encoders and {len(sizes)} image sizes; 1 or 2 of each belong"
        )
    overrides = fields["encoders"] or [None] * len(names)
    if len(overrides) != len(names):
        raise CheckpointError(f"{where} gives sizes of {len(overrides)} encoders for {len(names)} timm ids")
    activations = _activations(fields["timm_override_act_layers"], len(names), where)
    encoders = tuple(
        dataclasses.replace(_encoder(name, size, override, where), activation=activation)
        for name, size, override, activation in zip(names, sizes, overrides, activations, strict=True)
    )
    if len({encoder.num_patches for encoder in encoders}) != 1:
        counts = " and ".join(str(encoder.num_patches) for encoder in encoders)
        raise CheckpointError(f"{where}: the encoders make {counts} patches; fused encoders must make equally many")
    images = 1 if fields["image_sequence_len"] is None else fields["image_sequence_len"]
    if images < 1:
        raise CheckpointError(f"{where}: image_sequence_len is {images}; an example has at least 1 image")
    projector = projector_of(fields["arch_specifier"] or _usual_projector(len(names)), where)
    decoder = read_decoder(fields["text_config"], fields["llm_backbone_id"], f"{where}, text_config")
    return ModelConfig(encoders, decoder, projector, images)


def write_config(preset: Preset) -> dict[str, Any]:
    """A published config.json for a model of these sizes."""
    model, language = preset.model, LANGUAGE_MODELS[preset.llm_backbone]
    config: dict[str, Any] = {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "vision_backbone_id": preset.vision_backbone,
        "llm_backbone_id": preset.llm_backbone,
        "arch_specifier": preset.arch_specifier,
        "use_fused_vision_backbone": len(model.encoders) == 2,
        "timm_model_ids": list(preset.timm_ids),
        "timm_override_act_layers": [_override(encoder) for encoder in model.encoders],
        "image_sizes": [encoder.image_size for encoder in model.encoders],
        "image_resize_strategy": preset.resize,
        "encoders": [{name: getattr(encoder, name) for name in _ENCODER} for encoder in model.encoders],
        "text_config": write_decoder(model.decoder),
        "hf_llm_id": language.hub,
        "n_action_bins": 256,
        "pad_to_multiple_of": language.padding,
        "pad_token_id": preset.pad_token,
        "llm_max_length": preset.llm_max_length,
    }
    return config | ({"image_sequence_len": model.images} if model.images > 1 else {})


def _of_backbone(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the published class derives from the vision backbone's id, for a file that does not say."""
    name = config.get("vision_backbone_id")
    backbone = VISION_BACKBONES.get(name) if isinstance(name, str) else None
    return {} if backbone is None else _derived(backbone)


def _derived(backbone: VisionBackbone) -> dict[str, Any]:
    encoders = backbone.encoders(native=False)
    return {
        "timm_model_ids": list(backbone.timm_ids),
        "image_sizes": [encoder.image_size for encoder in encoders],
        "timm_override_act_layers": [_override(encoder) for encoder in encoders],
    }


def _override(encoder: ViTConfig) -> str | None:
    """How `timm_override_act_layers` calls the activation; null is timm's default, the exact GELU."""
    return None if encoder.activation == "gelu" else encoder.activation


def _activations(overrides: Sequence[str | None] | None, encoders: int, where: str) -> list[Any]:
    activations = [override or "gelu" for override in overrides or [None] * encoders]
    if len(activations) != encoders:
        raise CheckpointError(
            f"{where}: timm_override_act_layers has {len(activations)} entries for {encoders} encoder(s); one of each "
            "belongs"
        )
    for name in activations:
        if name not in ACTIVATIONS:
            raise CheckpointError(f"{where}, timm_override_act_layers: {unknown(name, ACTIVATIONS, 'activation')}")
    return activations


def _usual_projector(encoders: int) -> str:
    """What published inference takes by the number of encoders."""
    return "fused-gelu-mlp" if encoders == 2 else "gelu-mlp"


def _encoder(name: str, image_size: int, override: Mapping[str, Any] | None, where: str) -> ViTConfig:
    if name not in ENCODERS:
        raise CheckpointError(f"{where}: {unknown(name, ENCODERS, 'vision encoder')}")
    known = ENCODERS[name]
    absent = {field: getattr(known, field) for field in _OF_FAMILY}
    sizes = {} if override is None else some_fields(override, _ENCODER, f"{where}, encoders", absent)
    encoder = dataclasses.replace(known, image_size=image_size, **sizes)
    positive = (encoder.dim, encoder.num_heads, encoder.mlp_dim, encoder.patch_size)
    if min(positive) < 1 or encoder.prefix_tokens < encoder.class_position or encoder.depth < 2:
        raise CheckpointError(
            f"{where}: encoder {name!r} has sizes {sizes}; they must be positive, the depth at least 2, and only "
            "prefix_tokens may be 0, where no class token has a position"
        )
    if encoder.dim % encoder.num_heads or encoder.num_patches < 1:
        raise CheckpointError(
            f"{where}: encoder {name!r} has {encoder.dim} channels in {encoder.num_heads} heads and {image_size} px "
            f"images in patches of {encoder.patch_size}; heads must divide channels, and a patch fit the image"
        )
    return encoder

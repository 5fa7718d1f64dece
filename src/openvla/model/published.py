"""The published config.json (`model_type` "openvla"), both directions: its words to sizes, and sizes to its words.

Encoder sizes come from the timm ids, unless the key `encoders` gives them; decoder sizes from `text_config`, in which
everything absent or null has Llama's default (so an rms_norm_eps of 1e-6, and a vocabulary of 32000).
Source: the files of openvla/openvla-7b; transformers 4.40.1, LlamaConfig, for the defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from openvla.codec.fields import INTEGER, NUMBER, OBJECT, TEXT, Kind, list_of, nullable, some_fields
from openvla.codec.published import LLAMA_VOCAB
from openvla.errors import CheckpointError
from openvla.model.presets import ENCODERS, Preset
from openvla.model.prismatic import ModelConfig
from openvla.nn.decoder import DecoderConfig
from openvla.nn.vit import ViTConfig

FLAG = Kind("true or false", lambda value: isinstance(value, bool))

_CONFIG = {
    "timm_model_ids": list_of(TEXT),
    "image_sizes": list_of(INTEGER),
    "timm_override_act_layers": nullable(list_of(nullable(TEXT))),
    "arch_specifier": nullable(TEXT),
    "text_config": OBJECT,
    "encoders": nullable(list_of(OBJECT)),
}
_OPTIONAL = ("timm_override_act_layers", "arch_specifier", "encoders")
_ENCODER = {
    "dim": INTEGER,
    "depth": INTEGER,
    "num_heads": INTEGER,
    "mlp_dim": INTEGER,
    "patch_size": INTEGER,
    "prefix_tokens": INTEGER,
    "layer_scale": FLAG,
    "attention_pool": FLAG,
}
_DECODER = {
    field.name: NUMBER if field.name in ("rms_norm_eps", "rope_theta") else INTEGER
    for field in dataclasses.fields(DecoderConfig)
}
_LLAMA = {
    "model_type": ("llama", TEXT),
    "hidden_act": ("silu", TEXT),
    "attention_bias": (False, FLAG),
    "tie_word_embeddings": (False, FLAG),
    "rope_scaling": (None, nullable(OBJECT)),
}
"""What the decoder is built for: the only value of each, and its kind."""


def read_model_config(config: Mapping[str, Any], where: str) -> ModelConfig:
    """The sizes in a published config.json; `where` names the file in errors.

    Raises CheckpointError for absent or mistyped fields, unknown encoders, and architectures other than Llama's.
    """
    fields = some_fields(config, _CONFIG, where, dict.fromkeys(_OPTIONAL))
    names, sizes = fields["timm_model_ids"], fields["image_sizes"]
    if not 1 <= len(names) == len(sizes) <= 2:
        raise CheckpointError(
            f"{where} names {len(names)} encoders and {len(sizes)} image sizes; 1 or 2 of each belong"
        )
    if any(fields["timm_override_act_layers"] or ()):
        raise CheckpointError(f"{where} overrides activations ({fields['timm_override_act_layers']}); none can be")
    overrides = fields["encoders"] or [None] * len(names)
    if len(overrides) != len(names):
        raise CheckpointError(f"{where} gives sizes of {len(overrides)} encoders for {len(names)} timm ids")
    encoders = tuple(
        _encoder(name, size, override, where) for name, size, override in zip(names, sizes, overrides, strict=True)
    )
    if len({encoder.num_patches for encoder in encoders}) != 1:
        counts = " and ".join(str(encoder.num_patches) for encoder in encoders)
        raise CheckpointError(f"{where}: the encoders make {counts} patches; fused encoders must make equally many")
    _check_projector(fields["arch_specifier"], len(encoders), where)
    return ModelConfig(encoders, _decoder(fields["text_config"], f"{where}, text_config"))


def write_config(preset: Preset) -> dict[str, Any]:
    """A published config.json for a model of these sizes."""
    model = preset.model
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "vision_backbone_id": preset.vision_backbone,
        "llm_backbone_id": preset.llm_backbone,
        "arch_specifier": "no-align+fused-gelu-mlp" if len(model.encoders) == 2 else "no-align+gelu-mlp",
        "use_fused_vision_backbone": len(model.encoders) == 2,
        "timm_model_ids": list(preset.timm_ids),
        "timm_override_act_layers": [None] * len(model.encoders),
        "image_sizes": [encoder.image_size for encoder in model.encoders],
        "image_resize_strategy": "resize-naive",
        "encoders": [{name: getattr(encoder, name) for name in _ENCODER} for encoder in model.encoders],
        "text_config": {"model_type": "llama", **dataclasses.asdict(model.decoder)},
        "n_action_bins": 256,
        "pad_to_multiple_of": 64,
        "pad_token_id": model.decoder.vocab_size - 64,
        "llm_max_length": 2048,
    }


def _check_projector(arch: str | None, encoders: int, where: str) -> None:
    """Published inference goes by the number of encoders; where the config names the projector, it must agree."""
    if arch is None:
        return
    if not arch.endswith("gelu-mlp") or arch.endswith("fused-gelu-mlp") != (encoders == 2):
        raise CheckpointError(
            f"{where}: arch_specifier {arch!r} does not go with {encoders} encoder(s); one takes 'gelu-mlp', two take "
            "'fused-gelu-mlp'"
        )


def _encoder(name: str, image_size: int, override: Mapping[str, Any] | None, where: str) -> ViTConfig:
    if name not in ENCODERS:
        raise CheckpointError(f"{where} names the encoder {name!r}, which is unknown; known are {', '.join(ENCODERS)}")
    known = ENCODERS[name]
    absent = {"attention_pool": known.attention_pool}
    sizes = {} if override is None else some_fields(override, _ENCODER, f"{where}, encoders", absent)
    encoder = dataclasses.replace(known, image_size=image_size, **sizes)
    positive = (encoder.dim, encoder.num_heads, encoder.mlp_dim, encoder.patch_size)
    if min(positive) < 1 or encoder.prefix_tokens < 0 or encoder.depth < 2:
        raise CheckpointError(
            f"{where}: encoder {name!r} has sizes {sizes}; they must be positive, the depth at least 2, and only "
            "prefix_tokens may be 0"
        )
    if encoder.dim % encoder.num_heads or encoder.num_patches < 1:
        raise CheckpointError(
            f"{where}: encoder {name!r} has {encoder.dim} channels in {encoder.num_heads} heads and {image_size} px "
            f"images in patches of {encoder.patch_size}; heads must divide channels, and a patch fit the image"
        )
    return encoder


def _decoder(text: Mapping[str, Any], where: str) -> DecoderConfig:
    given = {name: value for name, value in text.items() if value is not None}
    built = {name: value for name, (value, _) in _LLAMA.items()}
    for name, value in some_fields(given, {name: kind for name, (_, kind) in _LLAMA.items()}, where, built).items():
        if value != built[name]:
            raise CheckpointError(f"{where}: {name} is {value!r}; only {built[name]!r} (Llama) is supported")
    defaults = dataclasses.asdict(DecoderConfig(vocab_size=LLAMA_VOCAB))
    defaults["num_key_value_heads"] = given.get("num_attention_heads", defaults["num_attention_heads"])
    sizes = some_fields(given, _DECODER, where, defaults)
    config = DecoderConfig(**sizes)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if min(sizes.values()) <= 0 or config.hidden_size % (2 * heads) or heads % kv_heads:
        raise CheckpointError(
            f"{where}: sizes {sizes} do not fit; all are positive, key/value heads divide heads, and twice the heads "
            "divide the hidden size"
        )
    return config

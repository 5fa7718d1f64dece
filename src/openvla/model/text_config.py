"""The language model in a published config.json (`text_config`), both directions.

What the file leaves out or sets to null has the default of its family's configuration class, not of any published
model: an export of Llama-2 that says only its vocabulary has an rms_norm_eps of 1e-6. transformers 5 writes the rotary
settings under `rope_parameters`, earlier releases as `rope_theta` and `rope_scaling`; both are read.
Source: transformers 4.40.1 and 5, the configuration classes of Llama, Mistral, Qwen2 and Phi.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from openvla.codec.fields import INTEGER, NUMBER, OBJECT, TEXT, Kind, nullable, some_fields
from openvla.errors import CheckpointError, unknown
from openvla.model.backbones import LANGUAGE_MODELS
from openvla.nn.decoder_config import DecoderConfig, FamilyName

FLAG = Kind("true or false", lambda value: isinstance(value, bool))

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


@dataclass(frozen=True)
class _Family:
    """What the configuration class of a family assumes and calls things.

    defaults: of what a file leaves out; num_key_value_heads 0 stands for as many as there are heads.
    eps: the field that holds the norms' epsilon. built: what the decoder is built for, field by field.
    """

    defaults: DecoderConfig
    eps: str
    built: Mapping[str, tuple[object, Kind]]


_ROPE: dict[str, tuple[object, Kind]] = {"rope_scaling": (None, nullable(OBJECT))}
_SILU: dict[str, tuple[object, Kind]] = {"hidden_act": ("silu", TEXT), **_ROPE}
_LLAMA = DecoderConfig(vocab_size=32000, num_key_value_heads=0)

FAMILIES: dict[FamilyName, _Family] = {
    "llama": _Family(_LLAMA, "rms_norm_eps", {"attention_bias": (False, FLAG), "mlp_bias": (False, FLAG), **_SILU}),
    "mistral": _Family(
        replace(_LLAMA, intermediate_size=14336, num_key_value_heads=8, family="mistral", sliding_window=4096),
        "rms_norm_eps",
        _SILU,
    ),
    "qwen2": _Family(
        replace(_LLAMA, vocab_size=151936, intermediate_size=22016, num_key_value_heads=32, family="qwen2"),
        "rms_norm_eps",
        {"use_sliding_window": (False, FLAG), **_SILU},
    ),
    "phi": _Family(
        DecoderConfig(51200, 2048, 8192, 24, 32, 0, 1e-5, family="phi", partial_rotary_factor=0.5),
        "layer_norm_eps",
        {"hidden_act": ("gelu_new", TEXT), "qk_layernorm": (False, FLAG), **_ROPE},
    ),
}


def read_decoder(text: Mapping[str, Any], llm_backbone: str | None, where: str) -> DecoderConfig:
    """The sizes in a text_config; `where` names it in errors.

    llm_backbone: the published id, which says the family where the text_config does not.
    Raises CheckpointError for mistyped fields, other families, and settings that the decoder is not built for.
    """
    family = _family(text, llm_backbone, where)
    traits = FAMILIES[family]
    given = {name: value for name, value in text.items() if value is not None}
    _check_built(given, traits, where)
    defaults = traits.defaults
    names: dict[str, Kind] = dict.fromkeys(_SIZES, INTEGER) | {traits.eps: NUMBER, "tie_word_embeddings": FLAG}
    absent = asdict(defaults) | {traits.eps: defaults.rms_norm_eps}
    if "num_key_value_heads" in text or not defaults.num_key_value_heads:
        absent["num_key_value_heads"] = given.get("num_attention_heads", defaults.num_attention_heads)
    found = some_fields(given, names, where, absent)
    eps = found.pop(traits.eps)
    config = replace(defaults, rms_norm_eps=eps, **found, **_rotary(given, defaults, where))
    if family == "mistral" and "sliding_window" in text:
        window = some_fields(text, {"sliding_window": nullable(INTEGER)}, where)["sliding_window"]
        config = replace(config, sliding_window=window)
    _check_sizes(config, given.get("head_dim"), where)
    return config


def write_decoder(config: DecoderConfig) -> dict[str, Any]:
    """A text_config that reads as `config`."""
    traits = FAMILIES[config.family]
    text: dict[str, Any] = {"model_type": config.family, **{name: getattr(config, name) for name in _SIZES}}
    text |= {traits.eps: config.rms_norm_eps, "rope_theta": config.rope_theta}
    text |= {"tie_word_embeddings": config.tie_word_embeddings}
    text |= {name: value for name, (value, _) in traits.built.items()}
    if config.family == "phi":
        text["partial_rotary_factor"] = config.partial_rotary_factor
    if config.family == "mistral":
        text["sliding_window"] = config.sliding_window
    return text


def _family(text: Mapping[str, Any], llm_backbone: str | None, where: str) -> FamilyName:
    known = LANGUAGE_MODELS.get(llm_backbone or "")
    default = known.decoder.family if known else "llama"
    given = {name: value for name, value in text.items() if value is not None}
    name = some_fields(given, {"model_type": TEXT}, where, {"model_type": default})["model_type"]
    if name not in FAMILIES:
        raise CheckpointError(f"{where}: {unknown(name, FAMILIES, 'model_type')}")
    return name


def _check_built(given: Mapping[str, Any], traits: _Family, where: str) -> None:
    kinds = {name: kind for name, (_, kind) in traits.built.items()}
    built = {name: value for name, (value, _) in traits.built.items()}
    for name, value in some_fields(given, kinds, where, built).items():
        if value != built[name]:
            raise CheckpointError(
                f"{where}: {name} is {value!r}; only {built[name]!r} is supported for {traits.defaults.family!r}"
            )


def _rotary(given: Mapping[str, Any], defaults: DecoderConfig, where: str) -> dict[str, float]:
    """rope_theta and partial_rotary_factor, from `rope_parameters` where that is, or else beside the sizes."""
    kinds = {"rope_theta": NUMBER, "partial_rotary_factor": NUMBER}
    outer = some_fields(given, kinds, where, {name: getattr(defaults, name) for name in kinds})
    place = f"{where}, rope_parameters"
    inner: dict[str, Any] = some_fields(given, {"rope_parameters": OBJECT}, where, {"rope_parameters": {}})[
        "rope_parameters"
    ]
    found = some_fields(inner, kinds | {"rope_type": TEXT}, place, outer | {"rope_type": "default"})
    if found.pop("rope_type") != "default":
        raise CheckpointError(f"{place}: rope_type is {inner['rope_type']!r}; only 'default' is supported")
    unread = sorted(set(inner) - {*kinds, "rope_type"})
    if unread:
        raise CheckpointError(f"{place}: {unread[0]!r} is not supported; only {', '.join(kinds)} and rope_type are")
    if found["partial_rotary_factor"] != 1 and defaults.family != "phi":
        raise CheckpointError(
            f"{where}: partial_rotary_factor is {found['partial_rotary_factor']}; only 1 is supported for "
            f"{defaults.family!r}"
        )
    return found


def _check_sizes(config: DecoderConfig, head_dim: object, where: str) -> None:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    sizes = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if isinstance(getattr(config, field.name), int | float) and field.name != "tie_word_embeddings"
    }
    if min(sizes.values()) <= 0 or config.hidden_size % (2 * heads) or heads % kv_heads:
        raise CheckpointError(
            f"{where}: sizes {sizes} do not fit; all are positive, key/value heads divide heads, and twice the heads "
            "divide the hidden size"
        )
    if config.partial_rotary_factor > 1 or config.rotary_dim % 2 or not config.rotary_dim:
        raise CheckpointError(
            f"{where}: partial_rotary_factor {config.partial_rotary_factor} turns {config.rotary_dim} of "
            f"{config.head_dim} channels of a head; it must be at most 1 and turn an even number"
        )
    if head_dim is not None and head_dim != config.head_dim:
        raise CheckpointError(
            f"{where}: head_dim is {head_dim!r}; only the hidden size divided by the heads, {config.head_dim}, is "
            "supported"
        )

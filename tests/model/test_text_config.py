from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from openvla.errors import CheckpointError
from openvla.model.backbones import LANGUAGE_MODELS
from openvla.model.text_config import read_decoder, write_decoder
from openvla.nn.decoder_config import DecoderConfig

SMALL: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_what_is_written_reads_the_same(name: str) -> None:
    decoder = LANGUAGE_MODELS[name].decoder
    assert read_decoder(write_decoder(decoder), None, "text_config") == decoder


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_what_transformers_writes_reads_the_same(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    decoder = LANGUAGE_MODELS[name].decoder
    text = transformers.AutoConfig.for_model(**write_decoder(decoder)).to_dict()
    assert read_decoder(text, None, "text_config") == decoder


def test_sizes_that_are_absent_or_null_are_llamas() -> None:
    expected = DecoderConfig(vocab_size=32000)
    assert read_decoder({}, None, "text_config") == expected
    assert read_decoder(dict.fromkeys(SMALL), None, "text_config") == expected


def test_every_family_has_the_defaults_of_its_configuration_class() -> None:
    assert read_decoder({"model_type": "mistral"}, None, "") == DecoderConfig(
        32000, 4096, 14336, 32, 32, 8, family="mistral", sliding_window=4096
    )
    assert read_decoder({"model_type": "qwen2"}, None, "") == DecoderConfig(151936, 4096, 22016, family="qwen2")
    assert read_decoder({"model_type": "phi"}, None, "") == DecoderConfig(
        51200, 2048, 8192, 24, 32, 32, 1e-5, family="phi", partial_rotary_factor=0.5
    )


def test_the_language_models_id_says_the_family_where_the_text_config_does_not() -> None:
    assert read_decoder({}, "mistral-v0.1-7b-pure", "").family == "mistral"
    assert read_decoder({"model_type": "llama"}, "mistral-v0.1-7b-pure", "").family == "llama"


def test_key_value_heads_are_as_many_as_heads_where_unsaid() -> None:
    text = SMALL | {"num_attention_heads": 8, "num_key_value_heads": None}
    assert read_decoder(text, None, "").num_key_value_heads == 8
    assert read_decoder(text | {"num_key_value_heads": 2}, None, "").head_dim == 8
    assert read_decoder(text | {"model_type": "mistral"}, None, "").num_key_value_heads == 8


def test_rotary_settings_are_read_from_either_place() -> None:
    inner = {"rope_type": "default", "rope_theta": 5e5}
    assert read_decoder(SMALL | {"rope_theta": 1e6}, None, "").rope_theta == 1e6
    assert read_decoder(SMALL | {"rope_theta": 1e6, "rope_parameters": inner}, None, "").rope_theta == 5e5
    phi = SMALL | {"model_type": "phi", "rope_parameters": inner | {"partial_rotary_factor": 0.25}}
    assert read_decoder(phi, None, "").rotary_dim == 4


def test_a_window_may_be_absent_or_null() -> None:
    mistral = SMALL | {"model_type": "mistral"}
    assert read_decoder(mistral, None, "").sliding_window == 4096
    assert read_decoder(mistral | {"sliding_window": None}, None, "").sliding_window is None
    assert read_decoder(SMALL | {"model_type": "qwen2", "sliding_window": 9}, None, "").sliding_window is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen"}, "text_config: unknown model_type 'qwen'; did you mean 'qwen2'"),
        ({"model_type": 3}, "field 'model_type' is 3, but must be text"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is supported for 'llama'"),
        ({"model_type": "phi", "hidden_act": "gelu"}, "only 'gelu_new' is supported for 'phi'"),
        ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm is True; only False"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is True; only False"),
        ({"attention_bias": True}, "attention_bias is True; only False"),
        ({"mlp_bias": True}, "mlp_bias is True; only False"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling is {'type': 'linear'}; only None"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters: rope_type is 'yarn'; only 'default'"),
        ({"rope_parameters": {"factor": 2.0}}, "rope_parameters: 'factor' is not supported"),
        ({"rope_parameters": 3}, "field 'rope_parameters' is 3, but must be an object"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; only 1 is supported for 'llama'"),
        ({"model_type": "phi", "partial_rotary_factor": 0.05}, "turns 0 of 16 channels of a head"),
        ({"model_type": "phi", "partial_rotary_factor": 2.0}, "it must be at most 1"),
        ({"model_type": "mistral", "sliding_window": 0}, "'sliding_window': 0.* do not fit"),
        ({"head_dim": 32}, "head_dim is 32; only the hidden size divided by the heads, 16"),
        ({"hidden_size": "64"}, "field 'hidden_size' is '64', but must be an integer"),
        ({"rms_norm_eps": True}, "field 'rms_norm_eps' is True, but must be a finite number"),
        ({"tie_word_embeddings": 1}, "field 'tie_word_embeddings' is 1, but must be true or false"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers': 0.* do not fit; all are positive"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "do not fit; .* key/value heads divide heads"),
        ({"hidden_size": 60, "num_attention_heads": 4}, "twice the heads divide the hidden size"),
    ],
)
def test_what_the_decoder_is_not_built_for_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_decoder(SMALL | changes, None, "config.json, text_config")


def test_a_tied_head_is_read() -> None:
    tied = read_decoder(SMALL | {"tie_word_embeddings": True}, None, "")
    assert tied == dataclasses.replace(read_decoder(SMALL, None, ""), tie_word_embeddings=True)

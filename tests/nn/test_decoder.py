from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from openvla.errors import InputError
from openvla.nn.decoder import Decoder, TiedHead
from openvla.nn.decoder_config import DecoderConfig
from openvla.nn.decoder_layers import RMSNorm

SIZES = [(32, 4, 4), (48, 4, 2), (60, 6, 1)]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-3, "rope_theta": 500.0},
    "mistral": {"family": "mistral", "sliding_window": 64},
    "qwen2": {"family": "qwen2", "rope_theta": 1e6},
    "qwen2-tied": {"family": "qwen2", "tie_word_embeddings": True},
    "phi": {"family": "phi", "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5},
}
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "phi": "Phi"}


def small(hidden: int, heads: int, kv_heads: int, **changes: Any) -> Decoder:
    """A decoder in which every weight matters."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(50, hidden, 37, 3, heads, kv_heads, **changes)).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return decoder


def logits(decoder: Decoder, x: Tensor) -> Tensor:
    return decoder.lm_head(decoder.model(x, torch.arange(x.shape[1]).expand(x.shape[0], -1)))


@pytest.mark.parametrize(("hidden", "heads", "kv_heads"), [(32, 4, 4), (48, 4, 2), (96, 6, 1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_agrees_with_transformers(family: str, hidden: int, heads: int, kv_heads: int) -> None:
    transformers = pytest.importorskip("transformers")
    changes = FAMILIES[family]
    decoder = small(hidden, heads, kv_heads, **changes)
    config, prefix = decoder.config, CLASSES[decoder.config.family]
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.family == "phi":
        rope["partial_rotary_factor"] = config.partial_rotary_factor
    more = {"layer_norm_eps": config.rms_norm_eps} if config.family == "phi" else {"rms_norm_eps": config.rms_norm_eps}
    if config.family == "mistral":
        more["sliding_window"] = config.sliding_window
    theirs = getattr(transformers, f"{prefix}ForCausalLM")(
        getattr(transformers, f"{prefix}Config")(
            vocab_size=50, hidden_size=hidden, intermediate_size=37, num_hidden_layers=3, num_attention_heads=heads,
            num_key_value_heads=kv_heads, rope_parameters=rope, attn_implementation="eager", bos_token_id=1,
            eos_token_id=2, pad_token_id=0, tie_word_embeddings=config.tie_word_embeddings, **more,
        )
    ).eval()  # fmt: skip
    missing = theirs.load_state_dict(decoder.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == (["lm_head.weight"] if config.tie_word_embeddings else [])
    x = torch.randn(2, 9, hidden)
    with torch.inference_mode():
        torch.testing.assert_close(logits(decoder, x), theirs(inputs_embeds=x).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("hidden", "heads", "kv_heads"), SIZES)
def test_cached_steps_equal_one_full_pass(hidden: int, heads: int, kv_heads: int) -> None:
    assert_steps_equal_one_pass(small(hidden, heads, kv_heads))


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_steps_equal_one_full_pass_in_every_family(family: str) -> None:
    assert_steps_equal_one_pass(small(32, 4, 2, **FAMILIES[family]))


def assert_steps_equal_one_pass(decoder: Decoder) -> None:
    x = torch.randn(2, 9, decoder.config.hidden_size)
    cache = decoder.make_cache(2, 9)
    states: list[Tensor] = []
    for step in (x[:, :4], *x[:, 4:].split(1, dim=1)):
        positions = torch.arange(cache.length, cache.length + step.shape[1]).expand(2, -1)
        states.append(decoder.model(step, positions, None, cache))
    torch.testing.assert_close(decoder.lm_head(torch.cat(states, dim=1)), logits(decoder, x), rtol=1e-4, atol=1e-5)


def test_a_later_token_changes_nothing_before_it() -> None:
    decoder = small(32, 4, 2)
    x = torch.randn(1, 6, 32)
    before = logits(decoder, x)
    x[:, 4] += 1
    after = logits(decoder, x)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.isclose(after[:, 4:], before[:, 4:]).all(-1).any()


def test_the_norm_divides_in_float32_and_rounds_before_the_weight() -> None:
    norm = RMSNorm(8, 1e-6).to(torch.bfloat16)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 8, dtype=torch.bfloat16) * 300
    quotient = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.equal(norm(x), norm.weight * quotient.to(torch.bfloat16))


def test_a_cache_has_the_dtype_of_the_weights() -> None:
    cache = small(48, 4, 2).to(torch.bfloat16).make_cache(3, 7)
    assert cache.keys.dtype == torch.bfloat16
    assert cache.keys.shape == (3, 3, 2, 7, 12)


def test_tensors_of_phi_have_their_published_names() -> None:
    names = set(small(32, 4, 4, **FAMILIES["phi"]).state_dict())
    layer = "model.layers.0."
    assert {name.removeprefix(layer) for name in names if name.startswith(layer)} == {
        f"{module}.{kind}"
        for module in (
            "input_layernorm",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.dense",
            "mlp.fc1",
            "mlp.fc2",
        )
        for kind in ("weight", "bias")
    }
    assert {"model.final_layernorm.weight", "model.final_layernorm.bias", "lm_head.weight", "lm_head.bias"} <= names


def test_qwen_has_biases_on_queries_keys_and_values_alone() -> None:
    names = small(32, 4, 2, **FAMILIES["qwen2"]).state_dict()
    assert {name.split(".")[-2] for name in names if name.endswith("bias")} == {"q_proj", "k_proj", "v_proj"}


def test_a_tied_head_has_no_tensor_and_follows_the_embedding() -> None:
    decoder = small(32, 4, 2, tie_word_embeddings=True)
    assert "lm_head.weight" not in decoder.state_dict()
    table = torch.randn(50, 32)
    decoder.load_state_dict({**decoder.state_dict(), "model.embed_tokens.weight": table}, assign=True)
    x = torch.randn(2, 32)
    assert isinstance(decoder.lm_head, TiedHead)
    torch.testing.assert_close(decoder.lm_head(x), x @ table.T)
    assert sum(parameter.numel() == 1600 for parameter in decoder.parameters()) == 1


def test_more_tokens_than_the_window_are_refused() -> None:
    decoder = small(32, 4, 2, family="mistral", sliding_window=8)
    with pytest.raises(InputError, match="9 tokens are more than the 8 over which this language model attends"):
        logits(decoder, torch.randn(1, 9, 32))
    with pytest.raises(InputError, match="12 tokens are more than the 8"):
        decoder.make_cache(1, 12)
    assert logits(decoder, torch.randn(1, 8, 32)).shape == (1, 8, 50)

from __future__ import annotations

import pytest
import torch

from openvla.nn.decoder import Decoder, DecoderConfig, RMSNorm

SIZES = [(32, 4, 4), (48, 4, 2), (60, 6, 1)]


def small(hidden: int, heads: int, kv_heads: int, **changes: float) -> Decoder:
    torch.manual_seed(0)
    sizes = DecoderConfig(50, hidden, 37, 3, heads, kv_heads, **changes)  # pyright: ignore[reportArgumentType]
    return Decoder(sizes).eval().requires_grad_(False)


def logits(decoder: Decoder, x: torch.Tensor) -> torch.Tensor:
    return decoder.lm_head(decoder.model(x, torch.arange(x.shape[1]).expand(x.shape[0], -1)))


@pytest.mark.parametrize(("hidden", "heads", "kv_heads"), SIZES)
@pytest.mark.parametrize(("eps", "theta"), [(1e-6, 10000.0), (1e-3, 500.0)])
def test_it_agrees_with_transformers(hidden: int, heads: int, kv_heads: int, eps: float, theta: float) -> None:
    transformers = pytest.importorskip("transformers")
    decoder = small(hidden, heads, kv_heads, rms_norm_eps=eps, rope_theta=theta)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=hidden, intermediate_size=37, num_hidden_layers=3, num_attention_heads=heads,
        num_key_value_heads=kv_heads, rms_norm_eps=eps, rope_theta=theta, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(decoder.state_dict())
    x = torch.randn(2, 9, hidden)
    with torch.inference_mode():
        torch.testing.assert_close(logits(decoder, x), theirs(inputs_embeds=x).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("hidden", "heads", "kv_heads"), SIZES)
def test_cached_steps_equal_one_full_pass(hidden: int, heads: int, kv_heads: int) -> None:
    decoder = small(hidden, heads, kv_heads)
    x = torch.randn(2, 9, hidden)
    cache = decoder.make_cache(2, 9)
    steps = [x[:, :4], *x[:, 4:].split(1, dim=1)]
    states = [
        decoder.model(step, torch.arange(cache.length, cache.length + step.shape[1]).expand(2, -1), None, cache)
        for step in steps
    ]
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

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openvla.errors import InputError
from openvla.nn.attention import KVCache, attention, rotary_angles, rotate


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """The definition, one head and one query at a time; each group of query heads shares a key/value head."""
    batch, heads, length, dim = query.shape
    group = heads // key.shape[1]
    mixed = torch.zeros(batch, length, heads, dim)
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                scores = key[b, h // group] @ query[b, h, t] / dim**0.5
                scores[~allowed[b, t]] = -torch.inf
                mixed[b, t, h] = scores.softmax(0) @ value[b, h // group]
    return mixed.flatten(2)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("kind", ["all", "causal", "mask"])
def test_attention_equals_its_definition(heads: int, kv_heads: int, kind: str) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, heads, 5, 6)
    key, value = torch.randn(2, 2, kv_heads, 5, 6)
    lower = torch.ones(2, 5, 5, dtype=torch.bool).tril()
    allowed = {"all": torch.ones_like(lower), "causal": lower, "mask": lower & (torch.arange(5) != 1)}[kind]
    allowed[:, 1, 0] = True
    mask = allowed[:, None] if kind == "mask" else None
    result = attention(query, key, value, mask, causal=kind == "causal")
    torch.testing.assert_close(result, softmax_attention(query, key, value, allowed))


def test_rotation_is_multiplication_by_a_unit_complex_number_per_pair() -> None:
    torch.manual_seed(0)
    heads, positions = torch.randn(1, 2, 7, 10), torch.arange(3, 10)
    angles = rotary_angles(positions[None, None], 10, 10000.0)
    rotated = rotate(heads, angles.cos(), angles.sin())
    pairs = torch.complex(heads[..., :5], heads[..., 5:]).to(torch.complex128)
    for index in range(5):
        turn = torch.exp(1j * positions.double() * 10000.0 ** (-2 * index / 10))
        expected = pairs[..., index] * turn
        torch.testing.assert_close(rotated[..., index], expected.real.float())
        torch.testing.assert_close(rotated[..., index + 5], expected.imag.float())


def test_rotated_products_depend_on_the_distance_only() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8)

    def at(position: int, x: Tensor) -> Tensor:
        angles = rotary_angles(torch.tensor([[[position]]]), 8, 1e4)
        return rotate(x, angles.cos(), angles.sin())

    def product(m: int, n: int) -> Tensor:
        return (at(m, query) * at(n, key)).sum()

    torch.testing.assert_close(product(9, 4), product(105, 100), rtol=1e-4, atol=1e-5)
    assert not torch.isclose(product(9, 4), product(9, 5), rtol=1e-3)


def test_a_half_precision_head_keeps_its_dtype_and_angles_stay_float32() -> None:
    angles = rotary_angles(torch.tensor([[[4000]]]), 8, 1e4)
    assert angles.dtype == torch.float32
    assert rotate(torch.ones(1, 1, 1, 8, dtype=torch.bfloat16), angles.cos(), angles.sin()).dtype == torch.bfloat16


def make_cache(capacity: int) -> KVCache:
    return KVCache(2, 1, 3, capacity, 4, torch.float32, torch.device("cpu"))


def test_a_cache_returns_all_that_was_appended_per_layer() -> None:
    cache, chunks = make_cache(6), torch.randn(2, 2, 1, 3, 3, 4)
    for step, layers in enumerate(chunks):
        for layer, new in enumerate(layers):
            keys, values = cache.append(layer, new, -new)
            expected = torch.cat(list(chunks[: step + 1, layer]), dim=2)
            assert torch.equal(keys, expected)
            assert torch.equal(values, -expected)
        cache.advance(3)
    assert cache.length == cache.capacity


def test_a_full_cache_says_how_many_tokens_it_holds() -> None:
    cache = make_cache(4)
    new = torch.zeros(1, 3, 3, 4)
    cache.append(0, new, new)
    cache.advance(3)
    with pytest.raises(
        InputError, match="the KV cache holds 4 tokens and 6 are needed; build it with a larger capacity"
    ):
        cache.append(0, new, new)

from __future__ import annotations

import torch

from openvla.infer.cache import StaticCache
from openvla.nn.decoder_config import DecoderConfig

CONFIG = DecoderConfig(8, 8, 8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)


def filled() -> StaticCache:
    cache = StaticCache(CONFIG, 3, 6, torch.float32, torch.device("cpu"))
    cache.start(torch.tensor([2, 0]))
    cache.append(1, torch.ones(2, 1, 4, 4), torch.full((2, 1, 4, 4), 2.0))
    return cache


def test_a_first_pass_fills_the_rows_it_names_and_looks_at_itself() -> None:
    cache = filled()
    assert cache.keys[1, [0, 2], :, :4].eq(1).all()
    assert cache.values[1, [0, 2], :, :4].eq(2).all()
    assert cache.keys[1, 1].eq(0).all()
    assert cache.keys[0].eq(0).all()


def test_a_later_pass_writes_each_token_to_its_position_and_sees_what_is_before() -> None:
    cache = filled()
    mask = cache.extend(torch.tensor([[1, 2], [4, 5]]))
    assert mask.shape == (2, 1, 2, 6)
    assert mask[0, 0, 0].tolist() == [True, True, False, False, False, False]
    assert mask[1, 0, 1].all()
    keys, _ = cache.append(1, torch.full((2, 1, 2, 4), 7.0), torch.zeros(2, 1, 2, 4))
    assert keys.shape == (2, 1, 6, 4)
    assert keys[0, 0, :, 0].tolist() == [1, 7, 7, 1, 0, 0]
    assert keys[1, 0, :, 0].tolist() == [0, 0, 0, 0, 7, 7]


def test_a_row_moves_whole() -> None:
    cache = filled()
    cache.move(2, 1)
    assert torch.equal(cache.keys[:, 1], cache.keys[:, 2])
    assert torch.equal(cache.values[:, 1], cache.values[:, 2])
    assert cache.nbytes == 2 * 2 * 3 * 6 * 4 * 4

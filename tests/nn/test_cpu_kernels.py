from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from openvla.nn.cpu_kernels import (
    INT8_ROWS,
    UNPACK_ROWS,
    UNPACKED_TILES,
    arranged_8_bits,
    eight_bits,
    per_token_int8,
    unpacked,
)
from openvla.nn.nibbles import TILE, deinterleave
from openvla.nn.quantized import Int4Linear, Int8Linear, QuantizedLinear

pytestmark = pytest.mark.usefixtures("way")
torch_only = pytest.mark.parametrize("way", ["torch"], indirect=True)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_more_rows_than_one_int8_product_takes_are_answered_as_each_alone() -> None:
    layer, x = Int8Linear.of(random(48, 64)), random(INT8_ROWS + 24, 64)
    together = layer(x)
    for row in (0, INT8_ROWS - 1, INT8_ROWS, INT8_ROWS + 23):
        assert torch.equal(layer(x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_any_number_of_rows_is_multiplied_as_in_small_parts(
    kind: type[QuantizedLinear], dtype: torch.dtype, way: str
) -> None:
    layer, x = kind.of(random(80, 130)), random(2 * INT8_ROWS + 1, 130).to(dtype)
    parts = torch.cat([layer(part) for part in x.split(UNPACK_ROWS - 1)])
    exact = kind is Int8Linear or way == "amx"  # int4 goes through another kernel of torch, which rounds elsewhere
    for rows in (0, 1, UNPACK_ROWS, INT8_ROWS - 1, INT8_ROWS, INT8_ROWS + 1, len(x)):
        rtol, atol = (0.0, 0.0) if exact else (0.02, 0.3)
        torch.testing.assert_close(layer(x[:rows]), parts[:rows], rtol=rtol, atol=atol)


@torch_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_levels_times_step_are_the_input_within_half_a_step(dtype: torch.dtype) -> None:
    x = random(7, 100).to(dtype)
    levels, step = per_token_int8(x)
    assert step.dtype == dtype
    assert levels.abs().amax(1).eq(127).all()
    assert ((levels.float() * step.float() - x.float()).abs() <= 0.5001 * step.float()).all()


@torch_only
def test_an_input_is_not_changed_by_counting_its_levels() -> None:
    x = random(3, 64)
    before = x.clone()
    per_token_int8(x)
    assert torch.equal(x, before)


def test_half_precision_rows_of_zeros_give_zeros() -> None:
    weight, x = random(64, 64), random(2, 64).half()
    x[1] = 0
    y = Int8Linear.of(weight)(x)
    assert y.dtype == torch.float16
    assert y[1].eq(0).all()
    torch.testing.assert_close(y[0].float(), x[0].float() @ weight.t(), rtol=0.05, atol=0.3)


@torch_only
def test_unpacked_weights_are_level_less_eight_times_step_plus_offset() -> None:
    stored = Int4Linear.encode(random(2 * TILE, 192))
    step, offset = stored["steps"].float().repeat_interleave(64, 0).unbind(-1)
    exact = ((deinterleave(stored["levels"]).float().t() - 8) * step + offset).bfloat16()
    order = torch.arange(TILE).view(2, -1).t().flatten()
    found = unpacked(stored["levels"], stored["steps"])
    assert torch.equal(found, torch.cat([exact[:, order], exact[:, TILE + order]], dim=1))


def test_int4_weights_of_many_tiles_are_the_same_for_many_rows_as_for_few() -> None:
    layer, x = Int4Linear.of(random((UNPACKED_TILES + 1) * TILE + 5, 64)), random(UNPACK_ROWS, 64).bfloat16()
    torch.testing.assert_close(layer(x), torch.cat([layer(part) for part in x.split(8)]), rtol=0.02, atol=0.1)


@torch_only
def test_a_weight_for_torch_comes_back_from_its_order() -> None:
    weight = torch.randint(-127, 128, (48, 80), dtype=torch.int8)
    layer, scale = Int8Linear(48, 80), torch.rand(48)
    layer.fill({"weight": weight, "scale": scale})
    assert arranged_8_bits(weight).is_mkldnn
    assert layer.weight.is_mkldnn
    assert torch.equal(layer.portable()["weight"], weight)


def test_one_row_of_eight_bits_is_not_the_slow_case() -> None:
    """Some sizes had no fast kernel for one row, and took a hundred times as long as for three."""

    def least(rows: int) -> float:
        x, times = torch.randn(rows, 256, dtype=torch.bfloat16), []
        for _ in range(9):
            began = time.perf_counter()
            eight_bits(x, weight, scale, zeros)
            times.append(time.perf_counter() - began)
        return min(times)

    weight = arranged_8_bits(torch.randint(-127, 128, (1376, 256), dtype=torch.int8))
    scale, zeros = torch.rand(1376), torch.zeros(1376, dtype=torch.int32)
    assert least(1) < 20 * least(3)

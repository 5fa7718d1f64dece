from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

import openvla.nn
from openvla.errors import UsageError
from openvla.nn import quantized
from openvla.nn.cpu_kernels import per_token_int8
from openvla.nn.nibbles import BLOCKS, ROWS, Order, by_block, by_row, by_tile, deinterleave, interleave, steps_by_block
from openvla.nn.quantized import (
    PRECISIONS,
    Fp8Linear,
    Int4Linear,
    Int8Linear,
    QuantizedLinear,
    check_precision,
    filled,
    gpu_kernels,
    widened,
)

SHAPES = [(64, 64), (96, 48), (688, 256), (48, 688), (1, 7)]
CPU_KINDS = [Int8Linear, Int4Linear]

pytestmark = pytest.mark.usefixtures("way")
torch_only = pytest.mark.parametrize("way", ["torch"], indirect=True)
"""Also for what goes through no layer: once is enough, and it runs on any machine."""


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def error(layer: QuantizedLinear, weight: Tensor, x: Tensor) -> float:
    exact = x @ weight.t()
    return float((layer(x) - exact).norm() / exact.norm())


@pytest.mark.parametrize("rows", [1, 5, 80])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "bound"), [(Int8Linear, 0.05), (Int4Linear, 0.25)])
def test_it_is_nearly_the_plain_layer(
    kind: type[QuantizedLinear], bound: float, shape: tuple[int, int], rows: int
) -> None:
    weight, x = random(*shape), random(rows, shape[1])
    layer = kind.of(weight)
    assert layer(x).shape == (rows, shape[0])
    assert error(layer, weight, x) < bound


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_bias_type_and_leading_axes_are_those_of_a_plain_layer(kind: type[QuantizedLinear]) -> None:
    weight, bias, x = random(96, 64), random(96), random(2, 3, 64)
    y = kind.of(weight, bias)(x)
    torch.testing.assert_close(y, kind.of(weight)(x) + bias)
    half = kind.of(weight.bfloat16(), bias.bfloat16())(x.bfloat16())
    assert half.shape == y.shape == (2, 3, 96)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: type[QuantizedLinear]) -> None:
    layer, x = kind.of(random(96, 64)), random(9, 64)
    x[3] *= 100
    together = layer(x)
    for row in range(9):
        assert torch.equal(layer(x[row : row + 1])[0], together[row])


def test_int8_products_are_exact_sums_of_levels() -> None:
    weight, x = random(33, 48), random(4, 48)
    stored = Int8Linear.encode(weight)
    levels, step = per_token_int8(x)
    exact = (levels.double() @ stored["weight"].double().t()) * stored["scale"] * step
    torch.testing.assert_close(Int8Linear.of(weight)(x), exact.float(), rtol=1e-5, atol=1e-6)


def test_int4_is_exact_where_the_weights_are_its_levels() -> None:
    weight = (torch.arange(16).repeat(64, 4).roll(3, 1).float() - 8) * 0.25
    for rows in (3, 80):
        x = torch.eye(64).repeat(2, 1)[:rows]
        torch.testing.assert_close(Int4Linear.of(weight)(x), x @ weight.t())


def test_int4_for_many_rows_is_what_it_is_for_few() -> None:
    layer, x = Int4Linear.of(random(100, 130)), random(80, 130).bfloat16()
    few = torch.cat([layer(part) for part in x.split(8)])
    torch.testing.assert_close(layer(x), few, rtol=0.02, atol=0.1)


@torch_only
def test_levels_share_bytes_within_a_tile_and_come_back() -> None:
    nibbles = torch.randint(0, 16, (128, 6), dtype=torch.uint8)
    packed = interleave(nibbles)
    assert packed.shape == (128, 3)
    assert packed.view(2, 6, 32)[1, 4, 5] == nibbles[64 + 5, 4] + 16 * nibbles[64 + 37, 4]
    assert torch.equal(deinterleave(packed), nibbles)


@torch_only
def test_rows_for_a_gpu_come_back_as_tiles() -> None:
    nibbles = torch.randint(0, 16, (64, 64), dtype=torch.uint8)
    rows = by_row(interleave(nibbles))
    words = rows.view(torch.int32)
    assert all(words[3, 4 * half + t] >> (4 * i) & 15 == nibbles[3, 32 * half + 4 * i + t]
               for half in range(2) for i in range(8) for t in range(4))  # fmt: skip
    assert torch.equal(by_tile(rows), interleave(nibbles))


@torch_only
@pytest.mark.parametrize("order", [ROWS, BLOCKS], ids=["rows", "blocks"])
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (192, 64), (64, 320), (256, 192)])
def test_levels_and_steps_come_back_from_an_order(order: Order, rows: int, columns: int) -> None:
    levels = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8)
    steps = random(columns // 64, rows, 2).bfloat16()
    ordered = order.levels(levels), order.steps(steps)
    assert [each.shape for each in ordered] == [levels.shape, (rows, columns // 64, 2)]
    assert all(each.is_contiguous() for each in ordered)
    assert torch.equal(order.tile_levels(ordered[0]), levels)
    assert torch.equal(order.tile_steps(ordered[1]), steps)


@torch_only
def test_a_block_holds_32_rows_of_one_group_in_the_words_of_rows() -> None:
    nibbles = torch.randint(0, 16, (128, 192), dtype=torch.uint8)
    levels, steps = interleave(nibbles), random(3, 128, 2).bfloat16()
    blocks = by_block(levels).view(4, 3, 32, 32)
    for block, group in ((0, 0), (1, 2), (3, 1)):
        rows, columns = slice(32 * block, 32 * block + 32), nibbles[:, 64 * group : 64 * group + 64]
        assert torch.equal(blocks[block, group], by_row(levels).view(128, 3, 32)[rows, group])
        assert torch.equal(steps_by_block(steps).view(4, 3, 32, 2)[block, group], steps[group, rows])
        words = blocks[block, group].view(torch.int32)
        assert all(words[7, 4 * half + t] >> (4 * i) & 15 == columns[rows][7, 32 * half + 4 * i + t]
                   for half in range(2) for i in range(8) for t in range(4))  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_saved_int4_layer_is_the_same_for_either_kernel(shape: tuple[int, int], way: str) -> None:
    weight = random(*shape)
    layer = Int4Linear.of(weight)
    assert (layer._order is BLOCKS) == (way == "amx")
    assert all(torch.equal(layer.portable()[name], tensor) for name, tensor in Int4Linear.encode(weight).items())


@torch_only
def test_a_processor_with_another_order_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random(70, 64), random(3, 64)
    wanted = Int4Linear.of(weight)(x)
    monkeypatch.setattr(quantized, "_native_order_is_ours", lambda: False)
    assert torch.equal(Int4Linear.of(weight)(x), wanted)


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_the_portable_form_comes_back(kind: type[QuantizedLinear]) -> None:
    weight, bias, x = random(96, 48), random(96), random(4, 48)
    layer, again = kind.of(weight, bias), kind(96, 48)
    portable = layer.portable()
    again.fill(portable)
    assert torch.equal(again(x), layer(x))
    assert all(torch.equal(portable[name], tensor) for name, tensor in kind.encode(weight).items())


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_zeros_stay_zeros(kind: type[QuantizedLinear]) -> None:
    weight, x = random(64, 64), random(2, 64)
    weight[5] = 0
    x[1] = 0
    y = kind.of(weight)(x)
    assert y[:, 5].abs().max() == 0
    assert y[1].abs().max() == 0


@torch_only
@pytest.mark.parametrize("kind", list(PRECISIONS.values()))
def test_random_weights_have_the_form_of_real_ones(kind: type[QuantizedLinear]) -> None:
    real, made = kind.encode(random(96, 80)), kind.encode(torch.empty(96, 80, device="meta"))
    assert list(real) == list(made)
    assert [(each.shape, each.dtype) for each in real.values()] == [(each.shape, each.dtype) for each in made.values()]
    assert all(torch.isfinite(tensor.float()).all() for tensor in made.values())


@torch_only
def test_fp8_levels_are_nearly_the_weights() -> None:
    weight = random(64, 48)
    stored = Fp8Linear.encode(weight)
    restored = stored["weight"].float() * stored["scale"].t()
    assert (restored - weight).norm() / weight.norm() < 0.04


@torch_only
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", list(PRECISIONS.values()))
@pytest.mark.parametrize("rows", [1, 5, 16, 40])
def test_on_a_gpu_it_is_nearly_the_plain_layer(kind: type[QuantizedLinear], rows: int) -> None:
    weight, x = random(256, 512).bfloat16().cuda(), random(rows, 512).bfloat16().cuda()
    assert error(kind.of(weight), weight, x) < 0.15


@torch_only
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", list(PRECISIONS.values()))
def test_on_a_gpu_a_row_does_not_depend_on_the_rows_beside_it(kind: type[QuantizedLinear]) -> None:
    layer, x = kind.of(random(256, 512).bfloat16().cuda()), random(9, 512).bfloat16().cuda()
    together = layer(x)
    for row in range(9):
        assert torch.equal(layer(x[row : row + 1])[0], together[row])


@torch_only
def test_padding_to_what_is_there_copies_nothing() -> None:
    weight = random(16, 24)
    assert filled(weight, 8) is weight
    assert filled(weight, 16).shape == (16, 32)
    assert widened(weight, 24) is weight
    assert torch.equal(widened(weight, 25)[:, :24], weight)


@torch_only
def test_a_device_without_a_kernel_is_refused() -> None:
    for name in ("int8", "int4"):
        check_precision(name, torch.device("cpu"))
    with pytest.raises(UsageError, match="quantize='fp8' runs on cuda, not on cpu; choose 'int8' or 'int4', or leave"):
        check_precision("fp8", torch.device("cpu"))
    with pytest.raises(UsageError, match="quantize='int8' runs on cpu and cuda, not on mps"):
        check_precision("int8", torch.device("mps"))


@torch_only
def test_a_gpu_without_triton_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "openvla.nn.gpu_kernels", raising=False)
    monkeypatch.delattr(openvla.nn, "gpu_kernels", raising=False)
    with pytest.raises(UsageError, match=r"a policy on a GPU needs Triton .*; install the build of torch for CUDA, or"):
        gpu_kernels()

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvla.nn.attention import rotary_angles, rotate
from openvla.nn.decoder_layers import RMSNorm
from openvla.nn.nibbles import ROWS, by_tile, deinterleave
from openvla.nn.quantized import PRECISIONS, Fp8Linear, Int4Linear, Int8Linear, QuantizedLinear

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton runs the kernels in Python then
pytest.importorskip("triton")
from openvla.nn import gpu_kernels, gpu_row

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(96, 130), (128, 256), (50, 64), (64, 1500)]
KINDS: list[type[QuantizedLinear] | None] = [None, *PRECISIONS.values()]


def random(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(shape).bfloat16().to(HERE)


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def layer_of(kind: type[QuantizedLinear] | None, weight: Tensor) -> nn.Module:
    """A layer as it is on a GPU."""
    if kind is None:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device=weight.device)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer
    quantized = kind(*weight.shape)
    for name, tensor in {**kind.encode(weight), "bias": None}.items():
        quantized.register_buffer(name, tensor)
    if isinstance(quantized, Int4Linear):
        quantized.reorder(ROWS)
    return quantized


def dense(layer: nn.Module) -> Tensor:
    if isinstance(layer, Int4Linear):
        levels = deinterleave(by_tile(layer.levels)).float().unflatten(1, (-1, 64))
        steps = layer.steps.float()
        return ((levels - 8) * steps[..., :1] + steps[..., 1:]).flatten(1)[: layer.rows, : layer.columns]
    if isinstance(layer, Int8Linear | Fp8Linear):
        return layer.weight.float() * layer.scale.flatten()[:, None]
    return layer.get_parameter("weight").float()


def norm_of(size: int) -> RMSNorm:
    norm = RMSNorm(size, 1e-5).to(HERE, torch.bfloat16).requires_grad_(False)
    norm.weight.copy_(random(size))
    return norm


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # in Python; the sigmoid is 0 or 1 there
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=["bf16", *PRECISIONS])
def test_on_a_gpu_one_row_is_normed_multiplied_and_added_or_gated(
    kind: type[QuantizedLinear] | None, shape: tuple[int, int]
) -> None:
    layer, x, add, norm = layer_of(kind, random(*shape)), random(shape[1]), random(shape[0]), norm_of(shape[1])
    exact = dense(layer)
    normed = exact @ norm(x).float()
    gate, up = normed.chunk(2)
    assert apart(gpu_row.product(x, layer), exact @ x.float()) < 6e-3
    assert apart(gpu_row.product(x, layer, add=add), exact @ x.float() + add) < 6e-3
    assert apart(gpu_row.product(x, layer, norm, add), normed + add) < 8e-3
    assert apart(gpu_row.product(x, layer, norm, gated=True), F.silu(gate) * up) < 1e-2


@pytest.mark.parametrize(("heads", "groups", "dim", "slots"), [(4, 4, 16, 128), (4, 2, 32, 64)])
def test_on_a_gpu_a_token_attends_to_its_cache_and_enters_it(heads: int, groups: int, dim: int, slots: int) -> None:
    keys, values = random(5, groups, slots, dim), random(4, 1 + groups, slots, dim)[:, 1:].contiguous()
    keys = keys[:4]
    qkv, positions = random(3, (heads + 2 * groups) * dim), torch.tensor([[5], [0], [slots - 1]], device=HERE)
    angles = rotary_angles(torch.arange(slots, device=HERE), dim, 1e4)
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    parts = qkv.view(3, -1, 1, dim)
    turned = rotate(parts[:, : heads + groups], cos[positions][:, None], sin[positions][:, None])
    known_keys, known_values = keys.clone(), values.clone()
    for row, position in enumerate(positions.flatten().tolist()):
        known_keys[row, :, position], known_values[row, :, position] = (
            turned[row, heads:, 0],
            parts[row, heads + groups :, 0],
        )
    mask = torch.arange(slots, device=HERE) <= positions[:, None, :, None]
    wanted = F.scaled_dot_product_attention(
        turned[:, :heads].float(), known_keys[:3].float(), known_values[:3].float(), mask, enable_gqa=True
    )
    found = gpu_row.attend(qkv, cos, sin, keys, values, positions, heads)
    assert apart(found, wanted.flatten(1)) < 6e-3
    assert torch.equal(values, known_values)
    torch.testing.assert_close(keys, known_keys, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("size", [48, 130])
def test_on_a_gpu_a_residual_is_added_and_normed_at_once(size: int) -> None:
    x, add, factor = random(2, 7, size), random(7, 2, size).view(2, 7, size), random(size)
    norm, layer_norm = norm_of(size), nn.LayerNorm(size).to(HERE, torch.bfloat16).requires_grad_(False)
    layer_norm.weight.copy_(random(size, 1)[:, 0])
    layer_norm.bias.copy_(random(size, 2)[:, 0])
    summed, normed = gpu_kernels.rms_norm(x, norm.weight, norm.eps, add)
    assert apart(summed, x + add) < 6e-3
    assert apart(normed, norm(x + add)) < 1e-2
    assert gpu_kernels.rms_norm(x, norm.weight, norm.eps)[0] is x
    for scale in (None, factor):
        wanted = x + (add if scale is None else add * scale)
        summed, normed = gpu_kernels.layer_norm(x, layer_norm, add, scale)
        assert apart(summed, wanted) < 6e-3
        assert apart(normed, layer_norm(wanted)) < 1e-2


def test_on_a_gpu_products_that_were_cut_from_wider_ones_are_taken_as_they_are() -> None:
    wide, add, norm = random(5, 40), random(5, 41)[:, :40], norm_of(36)
    x, more = wide[:, :36], add[:, :36]
    summed, normed = gpu_kernels.rms_norm(x, norm.weight, norm.eps, more)
    assert apart(summed, x + more) < 6e-3
    assert apart(normed, norm(x + more)) < 1e-2
    layer_norm = nn.LayerNorm(36).to(HERE, torch.bfloat16).requires_grad_(False)
    assert apart(gpu_kernels.layer_norm(x, layer_norm, more, None)[1], layer_norm(x + more)) < 1e-2
    sums, step, scale = (100 * wide).int()[:, :36], random(5, 1).float(), random(36).float()
    wanted = sums * step * scale
    torch.testing.assert_close(gpu_kernels.dequantise(sums, step, scale, torch.float32), wanted)

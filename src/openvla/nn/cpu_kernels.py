"""Products with weights in 8 or 4 bits on a CPU: ours where the processor has AMX, else those that come with torch.

One row is bound by reading the weights, an image and its prompt (280 rows) by multiplying: what helps the one does
nothing for the other, so both are named where they differ. Weights are brought into the kernels' own order once.

Shapes: M input rows, K input channels, N output channels; L, R: K and N rounded up to 64.
Source: ATen/native/cpu/int4mm_kernel.cpp (few rows of four bits); oneDNN's developer guide, "Matrix multiplication"
(int8 arithmetic, blocked weights).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from openvla.nn import amx
from openvla.nn.nibbles import TILE

INT8_ROWS = 256
"""Most rows of a product by oneDNN in int8: on AMX 256 run at 3.1 trillion operations a second, 280 at 1.65."""
UNPACK_ROWS = 64
"""From so many rows on, four-bit weights are unpacked for a bf16 product: the kernel for few reads them once a row."""
UNPACKED_TILES = 8
"""Tiles unpacked at a time, so that they are multiplied while a cache holds them."""


def arranged_8_bits(weight: Int8[Tensor, "N K"]) -> Tensor:
    """The weight in the order of `eight_bits`; oneDNN has one of its own."""
    return (
        amx.on_large_pages(weight)
        if amx.available()
        else torch.ops.onednn.qlinear_prepack(weight, [1, weight.shape[1]])
    )


def eight_bits(
    x: Float[Tensor, "M K"], weight: Tensor, scale: Float[Tensor, "N"], zeros: Tensor
) -> Float[Tensor, "M N"]:
    """The product x W^T of an arranged weight with the step `scale` of each row, for x in levels per token.

    zeros: int32 (N,), what oneDNN wants for weights without offsets.
    """
    x = x.float() if x.dtype == torch.float16 else x  # the kernels answer in float32 or bfloat16
    if not weight.is_mkldnn:
        return amx.eight_bits(x, weight, scale)
    levels, step = per_token_int8(x)
    y = x.new_empty(len(x), len(scale))
    for part, factor, target in zip(levels.split(INT8_ROWS), step.split(INT8_ROWS), y.split(INT8_ROWS), strict=True):
        rows = part if len(part) > 1 else part.repeat(2, 1)  # for one row oneDNN has no fast kernel at many sizes
        product = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 0, weight, scale, zeros, None, 1.0, 0, x.dtype, "none", [], ""
        )
        torch.mul(product[: len(part)], factor, out=target)
    return y


def per_token_int8(x: Float[Tensor, "M K"]) -> tuple[Int8[Tensor, "M K"], Float[Tensor, "M 1"]]:
    """Levels -127..127 and the step of each row, so that levels * step is nearly x.

    The step is rounded to the type of x before levels are counted in it, so that multiplying by it loses nothing.
    """
    low, high = x.aminmax(dim=-1, keepdim=True)
    step = (torch.maximum(-low, high).float().clamp(min=1e-12) / 127).to(x.dtype)
    return torch.div(x.float(), step.float()).round_().to(torch.int8), step


def arranged_4_bits(nibbles: UInt8[Tensor, "R L"]) -> Tensor:
    """Levels 0..15 in the order of this processor's kernel for few rows."""
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(nibbles.int(), 1)


def four_bits(
    x: Float[Tensor, "M L"], arranged: Tensor, levels: UInt8[Tensor, "R H"], steps: Float[Tensor, "G R 2"]
) -> Float[Tensor, "M R"]:
    """The product x W^T in bfloat16 for weights in the portable form of `Int4Linear`, which `arranged` repeats."""
    if len(x) < UNPACK_ROWS:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, arranged, x.shape[1] // len(steps), steps)
    size = UNPACKED_TILES * TILE
    parts = [
        x @ unpacked(levels[row : row + size], steps[:, row : row + size]) for row in range(0, len(levels), size)
    ]  # rows of a tile are in the order 0, 32, 1, 33, ...
    return torch.cat(parts, dim=1).unflatten(1, (-1, TILE // 2, 2)).transpose(2, 3).flatten(1)


def unpacked(levels: UInt8[Tensor, "R H"], steps: Float[Tensor, "G R 2"]) -> Float[Tensor, "L R"]:
    """W^T of some tiles in bfloat16; the rows d and d + 32 of a tile, which share a byte, become neighbours.

    The bfloat16 whose bits are 0x4300 | level is 128 + level, and two of them make the int32 that a byte is spread to.
    """
    tiles = levels.view(len(levels) // TILE, -1, TILE // 2).transpose(0, 1)
    pairs = tiles.to(torch.int32, memory_format=torch.contiguous_format)
    pairs.mul_(0x1001).bitwise_and_(0x000F000F).bitwise_or_(0x43004300)
    weight = pairs.view(torch.bfloat16).view(len(steps), -1, len(levels)).sub_(136)
    step, offset = steps.unflatten(1, (-1, 2, TILE // 2)).permute(4, 0, 1, 3, 2).flatten(2)
    return torch.addcmul(offset[:, None], weight, step[:, None], out=weight).flatten(0, 1)

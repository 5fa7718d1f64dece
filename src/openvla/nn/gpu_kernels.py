"""Kernels for NVIDIA GPUs of what the libraries do slowly: products of few rows with packed weights, and small steps.

A decode step reads every weight once and multiplies it by few rows: it is as fast as memory if the bytes of the weights
go straight from memory into the multiplication. Each program takes a strip of output channels, and a part of the input
channels where there are few strips; the parts are summed in float32, always in the same order. Rows are padded to 16
and do not mix, so a row's result does not depend on those beside it.

Shapes: M input rows, K input channels, N output channels, L and R: K and N rounded up to 64, P parts.
"""
# pyright: basic, reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
"""Most rows of `eight_bits` and `four_bits`."""


@triton.jit
@no_type_check
def _eight_bits(x, w, scale, y, m, n, k, part, most: tl.constexpr, strip: tl.constexpr, block: tl.constexpr):
    rows, columns = tl.arange(0, most), tl.program_id(0) * strip + tl.arange(0, strip)
    inner = tl.arange(0, block)
    sums = tl.zeros((most, strip), tl.float32)
    first = tl.program_id(1) * part
    for start in range(first, min(first + part, k), block):
        index = start + inner
        a = tl.load(x + rows[:, None] * k + index[None], (rows[:, None] < m) & (index[None] < k), 0.0)
        b = tl.load(w + columns[None] * k + index[:, None], (columns[None] < n) & (index[:, None] < k), 0.0)
        sums = tl.dot(a, b.to(tl.bfloat16), sums)
    sums *= tl.load(scale + columns, columns < n, 0.0)[None]
    place = (tl.program_id(1) * m + rows[:, None]) * n + columns[None]
    tl.store(y + place, sums, (rows[:, None] < m) & (columns[None] < n))


@triton.jit
@no_type_check
def _four_bits(x, totals, levels, steps, y, m, n, k, groups, per_part, most: tl.constexpr):
    rows, low, inner = tl.arange(0, most), tl.arange(0, 32), tl.arange(0, 64)
    tile = tl.program_id(0)
    low_sums, high_sums = tl.zeros((most, 32), tl.float32), tl.zeros((most, 32), tl.float32)
    first = tl.program_id(1) * per_part
    for group in range(first, min(first + per_part, groups)):
        a = tl.load(x + rows[:, None] * k + group * 64 + inner[None], rows[:, None] < m, 0.0)
        total = tl.load(totals + rows * groups + group, rows < m, 0.0)
        b = tl.load(levels + ((tile * groups + group) * 64 + inner[:, None]) * 32 + low[None]).to(tl.int16)
        scales = steps + (group * n + tile * 64 + low) * 2
        # The bfloat16 with these bits is 128 + level: no conversion is needed, and what is too much is subtracted once.
        step, offset = tl.load(scales).to(tl.float32), tl.load(scales + 1).to(tl.float32)
        part = tl.dot(a, ((b & 15) | 0x4300).to(tl.bfloat16, bitcast=True))
        low_sums += part * step[None] + total[:, None] * (offset - 136 * step)[None]
        step, offset = tl.load(scales + 64).to(tl.float32), tl.load(scales + 65).to(tl.float32)
        part = tl.dot(a, ((b >> 4) | 0x4300).to(tl.bfloat16, bitcast=True))
        high_sums += part * step[None] + total[:, None] * (offset - 136 * step)[None]
    place = (tl.program_id(1) * m + rows[:, None]) * n + tile * 64 + low[None]
    tl.store(y + place, low_sums, rows[:, None] < m)
    tl.store(y + place + 32, high_sums, rows[:, None] < m)


@triton.jit
@no_type_check
def _sum(parts, y, size, count: tl.constexpr, strip: tl.constexpr):
    index = tl.program_id(0) * strip + tl.arange(0, strip)
    total = tl.zeros((strip,), tl.float32)
    for part in tl.static_range(count):
        total += tl.load(parts + part * size + index, index < size, 0.0)
    tl.store(y + index, total, index < size)


@triton.jit
@no_type_check
def _unpack(levels, steps, weight, n, groups):
    tile, group = tl.program_id(0), tl.program_id(1)
    low, index = tl.arange(0, 32), group * 64 + tl.arange(0, 64)
    b = tl.load(levels + (tile * groups * 64 + index[:, None]) * 32 + low[None])
    scales = steps + (group * n + tile * 64 + low) * 2
    place = weight + index[:, None] * n + tile * 64 + low[None]
    step, offset = tl.load(scales).to(tl.float32), tl.load(scales + 1).to(tl.float32)
    tl.store(place, ((b & 15).to(tl.float32) - 8) * step[None] + offset[None])
    step, offset = tl.load(scales + 64).to(tl.float32), tl.load(scales + 65).to(tl.float32)
    tl.store(place + 32, ((b >> 4).to(tl.float32) - 8) * step[None] + offset[None])


@triton.jit
@no_type_check
def _levels(x, levels, step, k, top: tl.constexpr, block: tl.constexpr):
    row, index = tl.program_id(0), tl.arange(0, block)
    values = tl.load(x + row * k + index, index < k, 0.0).to(tl.float32)
    size = tl.maximum(tl.max(tl.abs(values)), 1e-12) / top
    tl.store(step + row, size)
    values = tl.div_rn(values, size)
    if top == 127:  # to the nearest level, ties to even: adding 1.5 * 2^23 leaves no bits for a fraction
        values = (values + 12582912.0) - 12582912.0
    tl.store(levels + row * k + index, values.to(levels.dtype.element_ty), index < k)


@triton.jit
@no_type_check
def _dequantise(sums, step, scale, y, n, strip: tl.constexpr):
    row, index = tl.program_id(0), tl.program_id(1) * strip + tl.arange(0, strip)
    factor = tl.load(step + row) * tl.load(scale + index, index < n, 0.0)
    tl.store(y + row * n + index, tl.load(sums + row * n + index, index < n, 0).to(tl.float32) * factor, index < n)


@triton.jit
@no_type_check
def _norm(x, weight, y, k, eps, block: tl.constexpr):
    row, index = tl.program_id(0), tl.arange(0, block)
    wide = tl.load(x + row * k + index, index < k, 0.0).to(tl.float32)
    quotient = (wide * tl.rsqrt(tl.sum(wide * wide) / k + eps)).to(y.dtype.element_ty)
    tl.store(y + row * k + index, quotient * tl.load(weight + index, index < k, 0.0), index < k)


@triton.jit
@no_type_check
def _gate(x, y, n, strip: tl.constexpr):
    row, index = tl.program_id(0), tl.program_id(1) * strip + tl.arange(0, strip)
    gate = tl.load(x + row * 2 * n + index, index < n, 0.0).to(tl.float32)
    up = tl.load(x + row * 2 * n + n + index, index < n, 0.0)
    tl.store(y + row * n + index, (gate * tl.sigmoid(gate)).to(up.dtype) * up, index < n)


@triton.jit
@no_type_check
def _rotate(x, cos, sin, y, heads, tokens, batch_step, token_step, half: tl.constexpr):
    token, head, index = tl.program_id(0), tl.program_id(1), tl.arange(0, half)
    row, place = token // tokens, token % tokens
    source = x + row * batch_step + place * token_step + head * 2 * half + index
    kind = y.dtype.element_ty
    first, second = tl.load(source), tl.load(source + half)
    c, s = tl.load(cos + token * 2 * half + index).to(kind), tl.load(sin + token * 2 * half + index).to(kind)
    target = y + ((row * heads + head) * tokens + place) * 2 * half + index
    tl.store(target, (first * c).to(kind) - (second * s).to(kind))
    tl.store(target + half, (second * c).to(kind) + (first * s).to(kind))


def rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """`rotate` (attention.py) for the first heads of x (B, T, C); cos, sin (B, 1, T, D) to (B, heads, T, D)."""
    rows, tokens, dim = len(x), x.shape[1], cos.shape[-1]
    y = torch.empty((rows, heads, tokens, dim), dtype=x.dtype, device=x.device)
    cos, sin = cos.expand(rows, -1, -1, -1).contiguous(), sin.expand(rows, -1, -1, -1).contiguous()
    _rotate[rows * tokens, heads](x, cos, sin, y, heads, tokens, x.stride(0), x.stride(1), dim // 2, num_warps=1)
    return y


def eight_bits(x: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The product x W^T for bfloat16 x (M, K), M <= 16, int8 or e4m3 weight (N, K), float32 scale of its rows (N,)."""
    (m, k), n = x.shape, len(weight)
    strip, block = 32, 256
    strips = triton.cdiv(n, strip)
    parts = 2
    part = triton.cdiv(triton.cdiv(k, parts), block) * block
    parts = triton.cdiv(k, part)
    y = torch.empty((parts, m, n), dtype=dtype if parts == 1 else torch.float32, device=x.device)
    _eight_bits[strips, parts](
        x.contiguous(), weight, scale, y, m, n, k, part, ROWS, strip, block, num_warps=2, num_stages=4
    )
    return sum_parts(y, dtype) if parts > 1 else y[0]


def four_bits(x: Tensor, levels: Tensor, steps: Tensor) -> Tensor:
    """The product x W^T (M, R) for bfloat16 x (M, K), M <= 16, and weights in the form of `Int4Linear`."""
    (m, k), n, groups = x.shape, len(levels), len(steps)
    per_part = triton.cdiv(groups, 8)
    parts = triton.cdiv(groups, per_part)
    y = torch.empty((parts, m, n), dtype=torch.float32, device=x.device)
    totals = x.unflatten(1, (groups, 64)).sum(-1, dtype=torch.float32)
    _four_bits[n // 64, parts](
        x.contiguous(), totals, levels, steps, y, m, n, k, groups, per_part, ROWS, num_warps=2, num_stages=3
    )
    return sum_parts(y, x.dtype)


def sum_parts(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of float32 parts (P, M, N) over P, in `dtype`."""
    y = torch.empty(parts.shape[1:], dtype=dtype, device=parts.device)
    _sum[triton.cdiv(y.numel(), 256),](parts, y, y.numel(), len(parts), 256, num_warps=2)
    return y


def unpack(levels: Tensor, steps: Tensor) -> Tensor:
    """The weights of an `Int4Linear` as a bfloat16 matrix (L, R)."""
    n, groups = len(levels), len(steps)
    weight = torch.empty((groups * 64, n), dtype=torch.bfloat16, device=levels.device)
    _unpack[n // 64, groups](levels, steps, weight, n, groups, num_warps=2)
    return weight


def per_token(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Levels of `dtype` (int8 or e4m3) and the step (M, 1) of each row of x (M, K)."""
    levels = torch.empty(x.shape, dtype=dtype, device=x.device)
    step = torch.empty((len(x), 1), dtype=torch.float32, device=x.device)
    top = 127 if dtype == torch.int8 else 448
    _levels[len(x),](x.contiguous(), levels, step, x.shape[1], top, triton.next_power_of_2(x.shape[1]), num_warps=8)
    return levels, step


def dequantise(sums: Tensor, step: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """int32 sums (M, N) times step (M, 1) and scale (N,), in `dtype`."""
    y = torch.empty(sums.shape, dtype=dtype, device=sums.device)
    _dequantise[len(sums), triton.cdiv(sums.shape[1], 1024)](sums, step, scale, y, sums.shape[1], 1024)
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`RMSNorm` (decoder_layers.py) in one kernel."""
    y, k = torch.empty_like(x), x.shape[-1]
    _norm[x.numel() // k,](x, weight, y, k, eps, triton.next_power_of_2(k), num_warps=8)
    return y


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up for gate and up side by side in the last axis."""
    n = x.shape[-1] // 2
    y = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    _gate[x.numel() // (2 * n), triton.cdiv(n, 1024)](x, y, n, 1024)
    return y

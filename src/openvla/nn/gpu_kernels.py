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
from torch import Tensor, nn

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
def _four_bits(x, totals, levels, steps, y, m, n, groups, per_part, most: tl.constexpr, strip: tl.constexpr):
    rows, columns, inner = tl.arange(0, most), tl.program_id(0) * strip + tl.arange(0, strip), tl.arange(0, 16)
    sums = tl.zeros((most, strip), tl.float32)
    first = tl.program_id(1) * per_part
    for group in range(first, min(first + per_part, groups)):
        total = tl.load(totals + rows * groups + group, rows < m, 0.0)
        words = tl.load(levels + (columns[None] * groups + group) * 8 + inner[:, None] % 8) >> (inner[:, None] // 8 * 4)
        both = tl.load(steps + columns * groups + group)
        part = tl.zeros((most, strip), tl.float32)
        for pair in tl.static_range(4):
            a = tl.load(x + ((rows[:, None] * groups + group) * 4 + pair) * 16 + inner[None], rows[:, None] < m, 0.0)
            # The bfloat16 with these bits is 128 + level: no conversion, and what is too much is subtracted once.
            b = (((words >> (8 * pair)) & 15) | 0x4300).to(tl.int16).to(tl.bfloat16, bitcast=True)
            part = tl.dot(a, b, part)
        step, offset = (both << 16).to(tl.float32, bitcast=True), (both & -65536).to(tl.float32, bitcast=True)
        sums += part * step[None] + total[:, None] * (offset - 136 * step)[None]
    tl.store(y + (tl.program_id(1) * m + rows[:, None]) * n + columns[None], sums, rows[:, None] < m)


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
def _unpack(levels, steps, weight, groups, rows: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0) * rows + tl.arange(0, rows)[:, None]
    index = tl.program_id(1) * block + tl.arange(0, block)[None]
    inside = index < groups * 8
    words = tl.load(levels + row.to(tl.int64) * groups * 8 + index, inside, 0)
    both = tl.load(steps + row * groups + index // 8, inside, 0)
    step, offset = (both << 16).to(tl.float32, bitcast=True), (both & -65536).to(tl.float32, bitcast=True)
    target = weight + row.to(tl.int64) * groups * 64 + index // 4 * 32 + index % 4
    for place in tl.static_range(8):
        level = ((words >> (4 * place)) & 15).to(tl.float32) - 8
        tl.store(target + 4 * place, (level * step + offset).to(weight.dtype.element_ty), inside)


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
def _dequantise(sums, step, scale, y, n, pitch, strip: tl.constexpr):
    row, index = tl.program_id(0).to(tl.int64), tl.program_id(1) * strip + tl.arange(0, strip)
    factor = tl.load(step + row) * tl.load(scale + index, index < n, 0.0)
    tl.store(y + row * n + index, tl.load(sums + row * pitch + index, index < n, 0).to(tl.float32) * factor, index < n)


@triton.jit
@no_type_check
def _norm(x, add, weight, summed, y, k, eps, added: tl.constexpr, block: tl.constexpr):
    row, index = tl.program_id(0), tl.arange(0, block)
    values = tl.load(x + row * k + index, index < k, 0.0)
    if added:
        more = tl.load(add + row * k + index, index < k, 0.0)
        values = (values.to(tl.float32) + more.to(tl.float32)).to(values.dtype)
        tl.store(summed + row * k + index, values, index < k)
    wide = values.to(tl.float32)
    quotient = (wide * tl.rsqrt(tl.sum(wide * wide) / k + eps)).to(y.dtype.element_ty).to(tl.float32)
    gain = tl.load(weight + index, index < k, 0.0).to(tl.float32)
    tl.store(y + row * k + index, (quotient * gain).to(y.dtype.element_ty), index < k)


@triton.jit
@no_type_check
def _layer_norm(
    x, add, factor, weight, bias, summed, y, k, eps, added: tl.constexpr, scaled: tl.constexpr, block: tl.constexpr
):
    row, index = tl.program_id(0), tl.arange(0, block)
    values = tl.load(x + row * k + index, index < k, 0.0)
    if added:
        more = tl.load(add + row * k + index, index < k, 0.0).to(tl.float32)
        if scaled:
            more = (more * tl.load(factor + index, index < k, 0.0).to(tl.float32)).to(values.dtype).to(tl.float32)
        values = (values.to(tl.float32) + more).to(values.dtype)
        tl.store(summed + row * k + index, values, index < k)
    wide = values.to(tl.float32)
    wide = tl.where(index < k, wide - tl.sum(wide) / k, 0.0)
    wide *= tl.rsqrt(tl.sum(wide * wide) / k + eps)
    wide = wide * tl.load(weight + index, index < k, 0.0).to(tl.float32)
    wide += tl.load(bias + index, index < k, 0.0).to(tl.float32)
    tl.store(y + row * k + index, wide.to(y.dtype.element_ty), index < k)


@triton.jit
@no_type_check
def _gate(x, y, n, strip: tl.constexpr):
    row, index = tl.program_id(0).to(tl.int64), tl.program_id(1) * strip + tl.arange(0, strip)
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
    """The product x W^T (M, R) for bfloat16 x (M, L), M <= 16; weights (R, L / 2), (R, L / 64, 2), as `by_row`."""
    (m, k), n = x.shape, len(levels)
    groups, strip = k // 64, 32
    per_part = triton.cdiv(groups, 8)
    parts = triton.cdiv(groups, per_part)
    y = torch.empty((parts, m, n), dtype=torch.float32, device=x.device)
    totals = x.unflatten(1, (groups, 64)).sum(-1, dtype=torch.float32)
    ordered = x.unflatten(1, (groups, 2, 8, 4)).transpose(2, 3).contiguous()
    _four_bits[n // strip, parts](
        ordered, totals, levels.view(torch.int32), steps.view(torch.int32), y, m, n, groups, per_part, ROWS, strip,
        num_warps=2, num_stages=3,
    )  # fmt: skip
    return sum_parts(y, x.dtype)


def sum_parts(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of float32 parts (P, M, N) over P, in `dtype`."""
    y = torch.empty(parts.shape[1:], dtype=dtype, device=parts.device)
    _sum[triton.cdiv(y.numel(), 256),](parts, y, y.numel(), len(parts), 256, num_warps=2)
    return y


def unpack(levels: Tensor, steps: Tensor) -> Tensor:
    """The weights of an `Int4Linear` as a bfloat16 matrix (R, L)."""
    n, groups = len(levels), levels.shape[1] // 32
    weight = torch.empty((n, groups * 64), dtype=torch.bfloat16, device=levels.device)
    _unpack[n // 4, triton.cdiv(groups, 32)](
        levels.view(torch.int32), steps.view(torch.int32), weight, groups, 4, 256, num_warps=4
    )
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
    _dequantise[len(sums), triton.cdiv(sums.shape[1], 1024)](sums, step, scale, y, sums.shape[1], sums.stride(0), 1024)
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The sum x + add, or x itself, and its `RMSNorm` (decoder_layers.py), in one kernel."""
    x = x.contiguous()
    y, k = torch.empty_like(x), x.shape[-1]
    summed, more = (torch.empty_like(x), add.contiguous()) if add is not None else (x, x)
    block = triton.next_power_of_2(k)
    _norm[x.numel() // k,](x, more, weight, summed, y, k, eps, add is not None, block, num_warps=8)
    return summed, y


def layer_norm(x: Tensor, norm: nn.LayerNorm, add: Tensor | None, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum x + add * factor, or x itself where nothing is to be added, and its layer norm, in one kernel."""
    x = x.contiguous()
    y, k = torch.empty_like(x), x.shape[-1]
    summed, more = (torch.empty_like(x), add.contiguous()) if add is not None else (x, x)
    _layer_norm[x.numel() // k,](
        x, more, x if factor is None else factor, norm.weight, norm.bias, summed, y, k, norm.eps,
        add is not None, factor is not None, triton.next_power_of_2(k), num_warps=4,
    )  # fmt: skip
    return summed, y


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up for gate and up side by side in the last axis."""
    n = x.shape[-1] // 2
    y = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    _gate[x.numel() // (2 * n), triton.cdiv(n, 1024)](x.contiguous(), y, n, 1024)
    return y

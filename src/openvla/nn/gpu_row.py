"""Kernels for one row: the decode step of a single robot, whose time is that of reading every weight once.

A layer is five launches: each product takes its norm in, and its residual or its gate out, so that nothing but a
vector passes between two of them. A program owns a few output channels over the whole input, and its threads multiply
and add without tensor cores: for one row they would have nothing to do, and memory is the limit.

The norm is moved behind the product: W (g x / rms(x)) = (W (g x)) / rms(x), where each program squares x as it goes.

Shapes: K input channels, N output channels, B rows, H query heads, G key/value heads, S slots, D head dimension.
"""
# pyright: basic, reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from openvla.nn.decoder_layers import RMSNorm

SHAPES = {16: (4, 1024, 4), 8: (4, 2048, 4), 4: (4, 128, 4)}
"""By bits of a weight: output channels of a program, input channels (4 bits: groups of 32) of a step, and its warps."""
EXPONENTS = 0x45000000, 0x43000000
"""The floats 2048 and 128; arguments of the kernel, so that one instruction masks a level and sets its exponent."""


@triton.jit
@no_type_check
def _finish(total, up, squares, scale, add, y, rows, k, n, eps, normed, gated, scaled, added):
    """Scale, norm, gate, add and store; every argument from `normed` on is a constant."""
    factor = 1.0
    if normed:
        factor = tl.rsqrt(tl.sum(squares) / k + eps)
    if scaled:
        total *= tl.load(scale + rows, rows < n, 0.0)
    total *= factor
    if gated:
        if scaled:
            up *= tl.load(scale + n + rows, rows < n, 0.0)
        total = total * tl.sigmoid(total) * (up * factor)
    if added:
        total += tl.load(add + rows, rows < n, 0.0).to(tl.float32)
    tl.store(y + rows, total.to(y.dtype.element_ty), rows < n)


@triton.jit
@no_type_check
def _row(
    x, gain, w, scale, add, y, n, k, eps,
    normed: tl.constexpr, gated: tl.constexpr, scaled: tl.constexpr, added: tl.constexpr,
    strip: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    rows, inner = tl.program_id(0) * strip + tl.arange(0, strip), tl.arange(0, block)
    sums, more = tl.zeros((strip, block), tl.float32), tl.zeros((strip, block), tl.float32)
    squares = tl.zeros((block,), tl.float32)
    for start in range(0, k, block):
        index = start + inner
        inside = (rows[:, None] < n) & (index[None] < k)
        weight = tl.load(w + rows[:, None].to(tl.int64) * k + index[None], inside, 0.0, eviction_policy="evict_first")
        if gated:
            place = (n + rows)[:, None].to(tl.int64) * k + index[None]
            other = tl.load(w + place, inside, 0.0, eviction_policy="evict_first")
        a = tl.load(x + index, index < k, 0.0).to(tl.float32)
        if normed:
            squares += a * a
            a *= tl.load(gain + index, index < k, 0.0).to(tl.float32)
        sums += weight.to(tl.float32) * a[None]
        if gated:
            more += other.to(tl.float32) * a[None]
    _finish(tl.sum(sums, 1), tl.sum(more, 1), squares, scale, add, y, rows, k, n, eps, normed, gated, scaled, added)


@triton.jit
@no_type_check
def _exact(words, fine, coarse, place: tl.constexpr):
    """One level of each word as a float, plus 2048 (levels 0, 3 and 5) or 128, where bit 12 or 16 is worth 1."""
    if place == 0 or place == 1:
        words = words << 12
    elif place == 2:
        words = words << 8
    elif place == 5 or place == 6:
        words = words >> 8
    elif place == 7:
        words = words >> 12
    if place == 0 or place == 3 or place == 5:
        return ((words & 0xF000) | fine).to(tl.float32, bitcast=True)
    return ((words & 0xF0000) | coarse).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def _row_of_four_bits(
    x, gain, levels, steps, add, y, n, k, groups, eps, fine, coarse,
    normed: tl.constexpr, gated: tl.constexpr, added: tl.constexpr, strip: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    rows, inner = tl.program_id(0) * strip + tl.arange(0, strip), tl.arange(0, 4)
    sums, more = tl.zeros((block, strip), tl.float32), tl.zeros((block, strip), tl.float32)
    squares = tl.zeros((block,), tl.float32)
    for start in range(0, 2 * groups, block):
        half = start + tl.arange(0, block)
        inside = half < 2 * groups
        source = rows.to(tl.int64)[None, :, None] * groups * 8 + (half * 4)[:, None, None] + inner[None, None]
        words = tl.load(levels + source, inside[:, None, None], 0, eviction_policy="evict_first")
        both = tl.load(steps + rows[None] * groups + (half // 2)[:, None], inside[:, None], 0)
        if gated:
            source = (n + rows).to(tl.int64)[None, :, None] * groups * 8 + (half * 4)[:, None, None] + inner[None, None]
            others = tl.load(levels + source, inside[:, None, None], 0, eviction_policy="evict_first")
            other_both = tl.load(steps + (n + rows)[None] * groups + (half // 2)[:, None], inside[:, None], 0)
        total, excess = tl.zeros((block, 4), tl.float32), tl.zeros((block, 4), tl.float32)
        part, other_part = tl.zeros((block, strip, 4), tl.float32), tl.zeros((block, strip, 4), tl.float32)
        for place in tl.static_range(8):
            index = (half * 32)[:, None] + place * 4 + inner[None]
            a = tl.load(x + index, index < k, 0.0).to(tl.float32)
            if normed:
                squares += tl.sum(a * a, 1)
                a *= tl.load(gain + index, index < k, 0.0).to(tl.float32)
            total += a
            if place == 0 or place == 3 or place == 5:
                excess += 1920 * a
            part += _exact(words, fine, coarse, place) * a[:, None]
            if gated:
                other_part += _exact(others, fine, coarse, place) * a[:, None]
        whole = tl.sum(total, 1)
        surplus = tl.sum(excess, 1) + 128 * whole
        sums += _scaled(tl.sum(part, 2), both, whole, surplus)
        if gated:
            more += _scaled(tl.sum(other_part, 2), other_both, whole, surplus)
    _finish(tl.sum(sums, 0), tl.sum(more, 0), squares, steps, add, y, rows, k, n, eps, normed, gated, False, added)


@triton.jit
@no_type_check
def _scaled(part, both, whole, surplus):
    """What halves of groups add to the sums: step (part - surplus) + (offset - 8 step) whole."""
    step = (both << 16).to(tl.float32, bitcast=True)
    offset = (both & -65536).to(tl.float32, bitcast=True)
    return (part - surplus[:, None]) * step + whole[:, None] * (offset - 8 * step)


@triton.jit
@no_type_check
def _turned(x, cos, sin, dim: tl.constexpr):
    """`rotate` (attention.py) of the head at `x`, with its roundings."""
    index, half = tl.arange(0, dim), dim // 2
    kind = x.dtype.element_ty
    first, partner = tl.load(x + index).to(tl.float32), tl.load(x + (index + half) % dim).to(tl.float32)
    turned = (first * tl.load(cos + index).to(tl.float32)).to(kind).to(tl.float32)
    other = (tl.where(index < half, -partner, partner) * tl.load(sin + index).to(tl.float32)).to(kind).to(tl.float32)
    return (turned + other).to(kind)


@triton.jit
@no_type_check
def _attend(
    qkv, cos, sin, keys, values, positions, y, heads, groups, capacity, scale,
    per: tl.constexpr, dim: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0), tl.program_id(1)
    index, slots = tl.arange(0, dim), tl.arange(0, block)
    position = tl.load(positions + row).to(tl.int32)
    cos, sin = cos + position * dim, sin + position * dim
    source = qkv + row * (heads + 2 * groups) * dim
    first = (row * groups + group).to(tl.int64) * capacity * dim
    key = _turned(source + (heads + group) * dim, cos, sin, dim)
    value = tl.load(source + (heads + groups + group) * dim + index)
    tl.store(keys + first + position * dim + index, key)
    tl.store(values + first + position * dim + index, value)
    for member in range(per):
        head = group * per + member
        query = _turned(source + head * dim, cos, sin, dim).to(tl.float32) * scale
        top = tl.sum(query * key.to(tl.float32))
        weight, mixed = 1.0, value.to(tl.float32)
        for start in range(0, position, block):
            inside = start + slots < position
            place = first + (start + slots)[:, None] * dim + index[None]
            seen = tl.load(keys + place, inside[:, None], 0.0).to(tl.float32)
            told = tl.load(values + place, inside[:, None], 0.0).to(tl.float32)
            scores = tl.where(inside, tl.sum(seen * query[None], 1), float("-inf"))
            higher = tl.maximum(top, tl.max(scores))
            share, kept = tl.exp(scores - higher), tl.exp(top - higher)
            weight = weight * kept + tl.sum(share)
            mixed = mixed * kept + tl.sum(share[:, None] * told, 0)
            top = higher
        tl.store(y + (row * heads + head) * dim + index, (mixed / weight).to(y.dtype.element_ty))


def product(
    x: Tensor, layer: Any, norm: RMSNorm | None = None, add: Tensor | None = None, gated: bool = False
) -> Tensor:
    """The sum add + W norm(x) + b, of x (K,) in bfloat16; gated: silu(first half) * second half of it. Gives (N,).

    layer: an `nn.Linear` or one of `PRECISIONS`; it has a bias only where nothing else is to be added.
    """
    bits = int(getattr(layer, "bits", 16))
    rows, k = layer.weight.shape if bits == 16 else (layer.rows, layer.columns)
    n = rows // 2 if gated else rows
    y = torch.empty(n, dtype=x.dtype, device=x.device)
    add = layer.bias if add is None else add
    given = (x if norm is None else norm.weight, x if add is None else add)
    eps = 0.0 if norm is None else norm.eps
    flags = {"normed": norm is not None, "gated": gated, "added": add is not None}
    strip, block, warps = SHAPES[bits]
    shape = {"strip": strip, "block": block // 2 if gated else block, "num_warps": warps}
    if bits == 4:
        levels, steps = layer.levels.view(torch.int32), layer.steps.view(torch.int32)
        sizes = (n, k, levels.shape[1] // 8, eps, *EXPONENTS)
        _row_of_four_bits[triton.cdiv(n, strip),](x, given[0], levels, steps, given[1], y, *sizes, **flags, **shape)
    else:
        scaled = bits == 8
        scale = layer.scale if scaled else layer.weight
        _row[triton.cdiv(n, strip),](
            x, given[0], layer.weight, scale, given[1], y, n, k, eps, **flags, scaled=scaled, **shape
        )  # fmt: skip
    return y


def attend(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, positions: Tensor, heads: int
) -> Tensor:
    """Attention of one new token per row over its cache, which takes its key and value. Gives (B, H D).

    qkv: (B, (H + 2 G) D), not yet rotated. cos, sin: (S, D), by position. keys, values: (>= B, G, S, D) of one layer.
    positions: int64 (B,), of the new token; what lies at and beyond it in the cache is not read.
    """
    _, groups, capacity, dim = keys.shape
    y = torch.empty((len(qkv), heads * dim), dtype=qkv.dtype, device=qkv.device)
    _attend[len(qkv), groups](
        qkv.contiguous(), cos, sin, keys, values, positions, y, heads, groups, capacity, dim**-0.5,
        per=heads // groups, dim=dim, block=64, num_warps=8,
    )  # fmt: skip
    return y

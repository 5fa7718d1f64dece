"""The two orders of int4 levels, two to a byte: tiles of 64 rows for processors, whole rows for GPUs.

Shapes: R rows, a multiple of 64; L columns, a multiple of 64; H = L / 2.
Source: ATen/native/cpu/int4mm_kernel.cpp, weight_to_int4pack_kernel (the tiles of 64 rows).
"""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

TILE = 64
"""Rows that the order for processors interleaves."""


def interleave(nibbles: UInt8[Tensor, "R L"]) -> UInt8[Tensor, "R H"]:
    """Two levels 0..15 a byte: row d of a tile low, row d + 32 high, column after column. R is a multiple of 64."""
    low, high = nibbles.view(-1, 2, TILE // 2, nibbles.shape[1]).transpose(2, 3).unbind(1)
    return (low | high << 4).contiguous().view(len(nibbles), -1)


def deinterleave(levels: UInt8[Tensor, "R H"]) -> UInt8[Tensor, "R L"]:
    """The inverse of `interleave`."""
    tiles = levels.view(len(levels) // TILE, -1, TILE // 2)
    return torch.stack([tiles & 15, tiles >> 4], dim=1).transpose(2, 3).reshape(len(levels), -1)


def by_row(levels: UInt8[Tensor, "R H"]) -> UInt8[Tensor, "R H"]:
    """From the order of `interleave` to rows, where 32 weights are four words: weight 4 i + t is bits 4 i of word t."""
    low, high = deinterleave(levels).unflatten(1, (-1, 4, 2, 4)).unbind(3)
    return (low | high << 4).transpose(2, 3).flatten(1).contiguous()


def by_tile(levels: UInt8[Tensor, "R H"]) -> UInt8[Tensor, "R H"]:
    """The inverse of `by_row`."""
    parts = levels.unflatten(1, (-1, 4, 4)).transpose(2, 3)
    return interleave(torch.stack([parts & 15, parts >> 4], dim=3).flatten(1).contiguous())

"""The orders of int4 levels, two to a byte, and of the steps of their groups.

    tiles    64 rows, column after column: what is saved, and what torch's kernel for AVX-512 reads
    rows     whole rows, for GPUs
    blocks   32 rows of one group after another, for processors with AMX: memory is read in one stream

Shapes: R rows, a multiple of 64; L columns, a multiple of 64; H = L / 2; G = L / 64 groups of a row.
Source: ATen/native/cpu/int4mm_kernel.cpp, weight_to_int4pack_kernel (the tiles of 64 rows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

TILE = 64
"""Rows that the saved order interleaves."""
BLOCK = 32
"""Rows of a block, and bytes of a group."""


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
    return _words(levels).transpose(2, 3).reshape(levels.shape)


def by_tile(levels: UInt8[Tensor, "R H"]) -> UInt8[Tensor, "R H"]:
    """The inverse of `by_row`."""
    return _tiles(levels.view(len(levels) // TILE, 2, BLOCK, -1, 2, 4, 4).transpose(2, 3))


def by_block(levels: UInt8[Tensor, "R H"]) -> UInt8[Tensor, "R H"]:
    """From the order of `interleave` to blocks, whose words are as in `by_row`."""
    return _words(levels).reshape(levels.shape)


def from_blocks(levels: UInt8[Tensor, "R H"]) -> UInt8[Tensor, "R H"]:
    """The inverse of `by_block`."""
    return _tiles(levels.view(len(levels) // TILE, 2, -1, BLOCK, 2, 4, 4))


def _words(levels: UInt8[Tensor, "R H"]) -> UInt8[Tensor, "tile 2 G 32 2 4 4"]:
    """The bytes of tile, half tile, group, row, half group, word, byte."""
    even, odd = levels.view(len(levels) // TILE, -1, 2, 4, 2, 4, BLOCK).unbind(4)  # columns 8 j + t and 8 j + 4 + t
    halves = torch.stack([even & 15 | odd << 4, even >> 4 | odd & 240], dim=1)
    return halves.permute(0, 1, 2, 6, 3, 5, 4)


def _tiles(words: UInt8[Tensor, "tile 2 G 32 2 4 4"]) -> UInt8[Tensor, "R H"]:
    """The inverse of `_words`."""
    low, high = words.permute(0, 1, 2, 4, 6, 5, 3).unbind(1)
    both = torch.stack([low & 15 | high << 4, low >> 4 | high & 240], dim=4)
    return both.view(words.shape[0] * TILE, -1)


def steps_by_row(steps: Float[Tensor, "G R 2"]) -> Float[Tensor, "R G 2"]:
    """Those of a row together; its own inverse."""
    return steps.transpose(0, 1).contiguous()


def steps_by_block(steps: Float[Tensor, "G R 2"]) -> Float[Tensor, "R G 2"]:
    """Those of 32 rows and one group after another."""
    return steps.unflatten(1, (-1, BLOCK)).transpose(0, 1).contiguous().view(steps.shape[1], -1, 2)


def steps_from_blocks(steps: Float[Tensor, "R G 2"]) -> Float[Tensor, "G R 2"]:
    """The inverse of `steps_by_block`."""
    blocks = steps.view(len(steps) // BLOCK, -1, BLOCK, 2)
    return blocks.transpose(0, 1).contiguous().view(steps.shape[1], -1, 2)


Convert = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Order:
    """How to come to an order from tiles, and back: levels, and steps."""

    levels: Convert
    steps: Convert
    tile_levels: Convert
    tile_steps: Convert


ROWS = Order(by_row, steps_by_row, by_tile, steps_by_row)
BLOCKS = Order(by_block, steps_by_block, from_blocks, steps_from_blocks)

"""Resizing as published training does it: Lanczos with three lobes and antialiasing, TensorFlow's numbers.

An output pixel is a weighted sum of the 6 to 7 input pixels around it (more where the image shrinks more), first down
the columns, then along the rows, in float32, rounded to uint8 once at the end. Pillow's filter of the same name rounds
and clips between the two passes and so differs by up to 13 levels at hard edges.

The weights of one axis form a banded matrix. It is cut into blocks of 8 outputs, each a small dense product with the
inputs that its outputs touch: as exact as the sum pixel by pixel, and faster than any of its sparse forms.

Shapes: H, W image; n outputs and K inputs of a block.
Source: TensorFlow's `tf.image.resize(method="lanczos3", antialias=True)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LOBES = 3
BLOCK = 8


def lanczos3(
    image: NDArray[np.uint8], height: int, width: int, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) -> uint8 (height, width, 3); an image of that size is returned as it is.

    out: uint8, C-contiguous, for the result where it is of its shape; it may share memory with `image`.
    """
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    pixels = image.reshape(rows, columns * 3).astype(np.float32)
    if rows != height:
        pixels = _down(pixels, height)
    if columns != width:
        pixels = _along(pixels, columns, width)
    np.rint(pixels, out=pixels)
    np.clip(pixels, 0, 255, out=pixels)
    if out is None or out.shape != (height, width, 3):
        out = np.empty((height, width, 3), np.uint8)
    out.reshape(height, width * 3)[...] = pixels
    return out


def lanczos_weights(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each of `target` outputs: the first input it reads, (target,), and the weights of those from there, (target,
    taps), which sum to 1; inputs beyond the image have weight 0.
    """
    step = np.float32(1) / (np.float32(target) / np.float32(source))
    stretch = np.maximum(step, np.float32(1))  # antialias: a shrinking image has a wider filter
    centre = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * step
    reach = np.float32(LOBES) * stretch
    first = np.clip(np.ceil(centre - reach - np.float32(0.5)), 0, source - 1).astype(np.intp)
    last = np.clip(np.floor(centre + reach - np.float32(0.5)), 0, source - 1).astype(np.intp)
    inputs = first[:, None] + np.arange(int((last - first).max()) + 1)
    distance = (inputs.astype(np.float32) + np.float32(0.5) - centre[:, None]) / stretch
    weights = np.where(inputs <= last[:, None], _lanczos(distance), np.float32(0))
    return first, weights / weights.sum(axis=1, keepdims=True)


def _lanczos(x: NDArray[np.float32]) -> NDArray[np.float32]:
    inside = np.abs(x) < LOBES
    return np.where(inside, np.sinc(x) * np.sinc(x / np.float32(LOBES)), 0).astype(np.float32)


@dataclass(frozen=True)
class _Block:
    """Outputs `target` of one axis as a product with its inputs `source`; weights (n, K)."""

    target: slice
    source: slice
    weights: NDArray[np.float32]


@lru_cache(maxsize=16)
def _blocks(source: int, target: int) -> tuple[_Block, ...]:
    first, weights = lanczos_weights(source, target)
    taps = weights.shape[1]
    blocks: list[_Block] = []
    for start in range(0, target, BLOCK):
        part = slice(start, min(start + BLOCK, target))
        begin = int(first[part].min())
        end = min(int(first[part].max()) + taps, source)
        dense = np.zeros((part.stop - start, end - begin + taps), np.float32)
        places = first[part, None] - begin + np.arange(taps)
        np.put_along_axis(dense, places, weights[part], axis=1)
        blocks.append(_Block(part, slice(begin, end), np.ascontiguousarray(dense[:, : end - begin])))
    return tuple(blocks)


@lru_cache(maxsize=16)
def _interleaved_blocks(source: int, target: int) -> tuple[_Block, ...]:
    """The blocks for pixels stored R, G, B, R, G, B: every weight three times, once per colour; weights (3 K, 3 n)."""
    colours = np.eye(3, dtype=np.float32)
    return tuple(
        _Block(_tripled(block.target), _tripled(block.source), np.kron(block.weights.T, colours))
        for block in _blocks(source, target)
    )


def _tripled(part: slice) -> slice:
    return slice(3 * part.start, 3 * part.stop)


def _down(pixels: NDArray[np.float32], target: int) -> NDArray[np.float32]:
    """(H, 3 W) -> (target, 3 W)."""
    out = np.empty((target, pixels.shape[1]), np.float32)
    for block in _blocks(len(pixels), target):
        np.matmul(block.weights, pixels[block.source], out=out[block.target])
    return out


def _along(pixels: NDArray[np.float32], source: int, target: int) -> NDArray[np.float32]:
    """(H, 3 source) -> (H, 3 target)."""
    out = np.empty((len(pixels), 3 * target), np.float32)
    for block in _interleaved_blocks(source, target):
        np.matmul(pixels[:, block.source], block.weights, out=out[:, block.target])
    return out

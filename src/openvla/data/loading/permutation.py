"""Seeded permutations of 0..n-1 that are computed, not stored: any position at once, in constant memory.

A Feistel network permutes the numbers of b bits, where 2**b is the power of two at or above n: the number is cut into
two halves, and in each round one half is masked with a hash of the other, which is undone by doing it again, so the
whole is a bijection whatever the hash. What lands at n or above is sent through again until it is below ("cycle
walking", less than two rounds on average), which keeps it a bijection of 0..n-1.

Shapes: every argument broadcasts to (N,); one call serves permutations of many sizes and keys.
Source: Luby and Rackoff 1988; Black and Rogaway 2002 (cycle walking); Steele et al. 2014 (the mixing function).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 8
Bits = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ROUND_KEYS = np.arange(1, ROUNDS + 1, dtype=np.uint64) * _GOLDEN
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)


def mix(*parts: ArrayLike) -> Bits:
    """64 pseudo-random bits (N,) that depend on all the whole numbers in `parts`, in this order."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _scramble((state ^ _bits(part)) + _GOLDEN)
    return state


def permute(positions: ArrayLike, sizes: ArrayLike, keys: ArrayLike) -> NDArray[np.int64]:
    """Where each of `positions` goes: int64 (N,), a bijection of 0..size-1 for each size and key.

    positions: in 0..size-1, and at most 2**62. keys: any 64-bit numbers; see `mix`.
    """
    values, limits, salts = (part.ravel() for part in np.broadcast_arrays(*map(_bits, (positions, sizes, keys))))
    result = values.copy()
    todo = np.arange(len(values))
    while len(todo):
        result[todo] = _feistel(result[todo], _width(limits[todo]), salts[todo])
        todo = todo[result[todo] >= limits[todo]]
    return result.view(np.int64)


def _feistel(values: Bits, width: Bits, salts: Bits) -> Bits:
    """One pass over numbers of `width` bits; the halves differ by a bit where that is odd, and swap every round."""
    one = np.uint64(1)
    low_bits = width >> one
    high_bits = width - low_bits
    low_mask, high_mask = (one << low_bits) - one, (one << high_bits) - one
    low, high = values & low_mask, values >> low_bits
    for number in range(0, ROUNDS, 2):
        high = high ^ (_hash(low, salts, number) & high_mask)
        low = low ^ (_hash(high, salts, number + 1) & low_mask)
    return high << low_bits | low


def _hash(half: Bits, salts: Bits, number: int) -> Bits:
    return _scramble(half * _MIX_2 + salts + _ROUND_KEYS[number])


def _scramble(state: Bits) -> Bits:
    state = (state ^ state >> _S30) * _MIX_1
    state = (state ^ state >> _S27) * _MIX_2
    return state ^ state >> _S31


def _width(sizes: Bits) -> Bits:
    """Bits that numbers below `sizes` need, and at least 2, so that both halves have one."""
    _, exponent = np.frexp((sizes - np.uint64(1)).astype(np.float64))
    return np.maximum(exponent, 2).astype(np.uint64)


def _bits(values: Any) -> Bits:
    """Whole numbers as arrays of 64 bits, negative ones by their two's complement."""
    array = np.atleast_1d(np.asarray(values))
    return array if array.dtype == np.uint64 else array.astype(np.int64).view(np.uint64)

"""Which frame is sample number g of a run: a function of (seed, g) alone, for one data set or a mixture of many.

Nothing is stored that grows with the data or with the run: the state of the sampling is the number g, and any number
can be asked for at once. That is why a run continues with the very next sample, at any number of ranks and workers:
step s holds the samples s * batch ... (s + 1) * batch - 1, and who computes which of them is a matter of arithmetic.

Each data set is walked through in a seeded permutation of its frames, another one each time around. Whose turn it is
is drawn at random with the weights' shares: within a block of 65,536 samples every data set has its share to within
one sample, at random places. (Independent draws would need all earlier draws to know how far a data set has come.)

Shapes: N sample numbers, K data sets.
Source: mixture weights as in Octo (arXiv:2405.12213), section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla.data.loading.permutation import mix, permute
from openvla.errors import DataError, InputError

BLOCK = 65_536
MAX_DATASETS = 255
"""The largest share of a block is then above the number of data sets, which the rounding needs."""

_TURN, _FRAME = 0x7475726E, 0x6672616D
"""Keep the hashes of turns and of frames apart."""


@dataclass(frozen=True)
class Sampler:
    """sizes: frames of each data set, at least one. weights: of each, above 0; only their ratios count.

    Raises DataError for an empty data set, InputError for other weights, lists that differ in length, too many.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.sizes) <= MAX_DATASETS or len(self.weights) != len(self.sizes):
            raise InputError(
                f"there are {len(self.sizes)} data sets and {len(self.weights)} weights; give one weight each, and 1 "
                f"to {MAX_DATASETS} data sets"
            )
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise InputError(f"the weights are {list(self.weights)}; each must be a number above 0")
        if min(self.sizes) < 1:
            raise DataError(
                f"data set number {self.sizes.index(min(self.sizes))} of the mixture has no frames to draw; its split "
                "is empty, or its episodes have no instruction or are shorter than a chunk"
            )

    def draw(self, numbers: ArrayLike, attempt: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(data set, frame in it), int64 (N,) each, of the samples `numbers` (N,), which start from 0.

        attempt: from 1 on other frames of the same data sets, to take the place of frames that cannot be read.
        """
        wanted = np.atleast_1d(np.asarray(numbers, np.int64))
        sources, turns = self._turns(wanted)
        sizes = self._sizes[sources]
        rounds, positions = np.divmod(turns, sizes)
        return sources, permute(positions, sizes, mix(self.seed, _FRAME + attempt, sources, rounds))

    def _turns(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(data set, how many samples it gave before), int64 (N,) each."""
        if len(self.sizes) == 1:
            return np.zeros(len(numbers), np.int64), numbers
        blocks, places = np.divmod(numbers, BLOCK)
        slots = permute(places, BLOCK, mix(self.seed, _TURN, blocks))
        sources, turns = np.empty_like(slots), np.empty_like(slots)
        for block in np.unique(blocks):
            here = blocks == block
            before, first = self._block(int(block))
            sources[here] = np.searchsorted(first, slots[here], side="right") - 1
            turns[here] = before[sources[here]] + slots[here] - first[sources[here]]
        return sources, turns

    def _block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(samples before `block`, first slot in it), int64 (K,) each, of every data set."""
        return _shares(self.weights, block)

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.asarray(self.sizes, np.int64)


def step_numbers(step: int, batch_size: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]:
    """The sample numbers of `rank` at global step `step`; those of all ranks together are the same for any `world`.

    batch_size: of all ranks together. Raises InputError where it is no multiple of `world`.
    """
    if world < 1 or batch_size % world or not 0 <= rank < world:
        raise InputError(
            f"{batch_size} samples a step cannot be shared out to rank {rank} of {world}; make the batch size a "
            "multiple of the number of ranks"
        )
    return np.arange(step * batch_size + rank, (step + 1) * batch_size, world)


@lru_cache(maxsize=16)
def _shares(weights: tuple[float, ...], block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Exact: the data set with the largest weight takes what rounding down leaves to the others."""
    before, after = (_taken(weights, number * BLOCK) for number in (block, block + 1))
    counts = [b - a for a, b in zip(before, after, strict=True)]
    first = np.cumsum([0, *counts[:-1]])
    return np.asarray(before, np.int64), first.astype(np.int64)


def _taken(weights: Sequence[float], total: int) -> list[int]:
    exact = [Fraction(weight) for weight in weights]
    whole = sum(exact)
    taken = [int(weight / whole * total) for weight in exact]
    largest = exact.index(max(exact))
    taken[largest] += total - sum(taken)
    return taken

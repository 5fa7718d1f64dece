"""Action bins and the vocabulary entries that stand for them.

The range [-1, 1] is cut at `num_bins` evenly spaced edges, both ends included. Bin i (1..num_bins) of a value is the
number of edges at or below it, and its token id counts down from the end of the tokenizer's vocabulary: vocab_size - i.
There are num_bins ids but only num_bins - 1 intervals: the value 1 alone falls in the last bin, and the last two bins
decode to the same centre.

Source: OpenVLA (arXiv:2406.09246), section 3.2; the published tokenizer digitises as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla.errors import InputError


@dataclass(frozen=True)
class ActionTokenizer:
    """Bins <-> token ids.

    vocab_size: entries of the tokenizer itself, without padding rows of the embedding (32000 for Llama-2).
    num_bins: bin edges in [-1, 1], and so the number of ids in use: vocab_size - num_bins .. vocab_size - 1.

    Raises InputError unless 2 <= num_bins <= vocab_size.
    """

    vocab_size: int = 32000
    num_bins: int = 256

    def __post_init__(self) -> None:
        if not 2 <= self.num_bins <= self.vocab_size:
            raise InputError(
                f"{self.num_bins} action bins do not fit a vocabulary of {self.vocab_size}; "
                f"choose between 2 and {self.vocab_size}"
            )

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """The bin edges, float64 (num_bins,), ascending from -1 to 1."""
        return np.linspace(-1.0, 1.0, self.num_bins)

    @cached_property
    def centers(self) -> NDArray[np.float64]:
        """The values that ids decode to, float64 (num_bins - 1,), ascending."""
        return (self.edges[:-1] + self.edges[1:]) / 2.0

    @property
    def token_range(self) -> range:
        """The ids that stand for bins."""
        return range(self.vocab_size - self.num_bins, self.vocab_size)

    def encode(self, values: ArrayLike) -> NDArray[np.int64]:
        """Token ids, int64, of normalised values of the same shape; values outside [-1, 1] are clipped.

        A float32 value is compared as it is with the float64 edges, as in published training.
        Raises InputError for NaN, infinity and what is not a real number.
        """
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            raise InputError(f"actions of dtype {array.dtype} have no bins; pass an array of real numbers")
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            raise InputError(
                f"the action holds {array[tuple(bad[0])]} at index {bad[0].tolist()}, which has no bin; "
                "drop the step or repair the data"
            )
        bins = np.digitize(np.clip(array, -1, 1), self.edges)
        return np.asarray(self.vocab_size - bins, dtype=np.int64)

    def decode(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Bin centres, float64 in (-1, 1), of token ids of the same shape.

        Ids that are no action tokens decode to the nearest end, as published: below the range to the highest centre,
        above it to the lowest. Raises InputError for ids that are not integers.
        """
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise InputError(f"token ids have dtype {ids.dtype}; pass integers")
        index = np.clip(self.vocab_size - 1 - ids.astype(np.int64), 0, self.num_bins - 2)
        return self.centers[index]

    def is_action(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which of `ids` stand for bins; bool, same shape."""
        ids = np.asarray(ids)
        return (ids >= self.token_range.start) & (ids < self.token_range.stop)

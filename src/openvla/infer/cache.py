"""Keys and values in buffers of a fixed size, in which a token's slot is its position.

A prompt that is padded on the right leaves rubbish behind its last token; what is decoded overwrites it, slot by slot,
and until then the mask hides it, as it hides everything beyond a query's own position. So rows of any length, at any
step, share one cache, and no shape depends on how far any of them is.

Shapes: L layers, R rows, G key/value heads, S slots, D head dimension, B rows of one pass, T tokens of one pass.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from openvla.nn.attention import KVCache
from openvla.nn.decoder_config import DecoderConfig


class StaticCache(KVCache):
    """A cache for `rows` sequences of up to `capacity` tokens. Before each pass, `start` or `extend` says where it is.

    keys, values: (L, R, G, S, D).
    """

    def __init__(
        self, config: DecoderConfig, rows: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(
            config.num_hidden_layers, rows, config.num_key_value_heads, capacity, config.head_dim, dtype, device
        )
        self.keys.zero_()  # what a masked slot holds is multiplied by zero, so it must be finite
        self.values.zero_()
        self.rows = rows
        self._slots = torch.arange(capacity, device=device)
        self._target: Tensor | None = None
        self._places: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Size of the buffers."""
        return self.keys.nbytes + self.values.nbytes

    def start(self, rows: Int[Tensor, "B"]) -> None:
        """The next pass holds the first tokens of `rows`, which look at each other only."""
        self._target, self._places = rows, None

    def extend(self, positions: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T S"]:
        """The next pass holds tokens at `positions` of the first B rows; returns which slots they may look at."""
        heads = len(positions) * self.keys.shape[2]
        first = torch.arange(0, heads * self.capacity, self.capacity, device=positions.device)
        self._target, self._places = None, (first.view(len(positions), -1, 1) + positions[:, None]).flatten()
        return self._slots <= positions[:, None, :, None]

    def append(
        self, layer: int, key: Float[Tensor, "B G T D"], value: Float[Tensor, "B G T D"]
    ) -> tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
        """Store one layer's new keys and values; returns all that the new tokens look at."""
        keys, values = self.keys[layer], self.values[layer]
        if self._places is None:
            assert self._target is not None
            _store(keys[:, :, : key.shape[2]], self._target, key)
            _store(values[:, :, : value.shape[2]], self._target, value)
            return key, value
        keys, values = keys[: len(key)], values[: len(value)]
        keys.flatten(0, 2).index_copy_(0, self._places, key.flatten(0, 2))  # not scatter_, which sorts its indices
        values.flatten(0, 2).index_copy_(0, self._places, value.flatten(0, 2))
        return keys, values

    def advance(self, tokens: int) -> None:
        """Nothing to count: positions come from outside."""

    def move(self, source: int, target: int) -> None:
        """Let row `target` be a copy of row `source`."""
        self.keys[:, target] = self.keys[:, source]
        self.values[:, target] = self.values[:, source]


def _store(cached: Float[Tensor, "R G T D"], rows: Int[Tensor, "B"], new: Float[Tensor, "B G T D"]) -> None:
    """Let `rows` of `cached` be `new`."""
    if rows.is_cuda:
        cached.index_copy_(0, rows, new)
    else:  # where index_copy_ takes five times as long
        for row, part in zip(rows.tolist(), new, strict=True):
            cached[row] = part

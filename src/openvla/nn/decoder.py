"""The language model: Llama, Mistral, Qwen2 and Phi are configurations of one decoder.

`forward` takes embeddings, not ids, because image patches have no ids. Positions and mask are arguments: the same code
serves training, a right-padded batch and one decode step. Attribute names are the published ones of each family.

Shapes: B batch, T new tokens, S cached plus new tokens, C hidden size, V vocabulary.
Source: Touvron et al. 2023 (Llama 2), section 2.2; the families' own papers are named in `decoder_config`.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from openvla.errors import InputError
from openvla.nn.attention import KVCache, rotary_angles
from openvla.nn.decoder_config import DecoderConfig
from openvla.nn.decoder_layers import DecoderLayer, PhiLayer, RMSNorm


class Transformer(nn.Module):
    """Embedding table, decoder layers and final norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(self.make_layer(layer) for layer in range(config.num_hidden_layers))
        self.make_final_norm()

    def make_layer(self, layer: int) -> nn.Module:
        """Decoder layer number `layer`."""
        return DecoderLayer(self.config, layer)

    def make_final_norm(self) -> None:
        """Add the norm behind the last layer under its published name."""
        self.norm = RMSNorm(self.config.hidden_size, self.config.rms_norm_eps)

    def final_norm(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """The norm behind the last layer."""
        return self.norm(x)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        positions: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B 1 T S"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """Hidden states after the final norm. `mask` is True where a query may look.

        Without `mask` attention is causal over `x`, which then must be the first tokens in `cache` or a single one.
        Raises InputError for more tokens than the attention window.
        """
        check_window(self.config, x.shape[1])
        angles = rotary_angles(positions[:, None], self.config.rotary_dim, self.config.rope_theta)
        rotary = (angles.cos(), angles.sin())
        for layer in self.layers:
            x = layer(x, rotary, mask, cache)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.final_norm(x)


class PhiTransformer(Transformer):
    """Phi's layers, and a LayerNorm behind them."""

    def make_layer(self, layer: int) -> nn.Module:
        return PhiLayer(self.config, layer)

    def make_final_norm(self) -> None:
        self.final_layernorm = nn.LayerNorm(self.config.hidden_size, self.config.rms_norm_eps)

    def final_norm(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        return self.final_layernorm(x)


class TiedHead(nn.Module):
    """An output head that multiplies by the embedding table and has no tensor of its own, in memory or in files."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple, so that it is not registered here a second time

    @property
    def weight(self) -> Tensor:
        """The embedding table."""
        return self._embedding[0].weight

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N V"]:
        return F.linear(x, self.weight)


class Decoder(nn.Module):
    """The transformer and its output head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        phi = config.family == "phi"
        self.config = config
        self.model = PhiTransformer(config) if phi else Transformer(config)
        self.lm_head = (
            TiedHead(self.model.embed_tokens)
            if config.tie_word_embeddings
            else nn.Linear(config.hidden_size, config.vocab_size, bias=phi)
        )

    def make_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for `capacity` tokens per row, on the device and in the dtype of the weights.

        Raises InputError for more tokens than the attention window.
        """
        weight, config = self.model.embed_tokens.weight, self.config
        check_window(config, capacity)
        return KVCache(
            config.num_hidden_layers,
            batch,
            config.num_key_value_heads,
            capacity,
            config.head_dim,
            weight.dtype,
            weight.device,
        )


def check_window(config: DecoderConfig, tokens: int) -> None:
    """Raise InputError where `tokens` exceed the window of attention, beyond which the model forgets."""
    if config.sliding_window is not None and tokens > config.sliding_window:
        raise InputError(
            f"{tokens} tokens are more than the {config.sliding_window} over which this language model attends; shorten"
            " the text"
        )

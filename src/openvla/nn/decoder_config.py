"""The sizes of a language model, and what sets its family apart.

Four families share one decoder. Llama: pre-norm, rotary positions, SwiGLU, no biases. Mistral: Llama with grouped-query
attention and a window of attention. Qwen2: Llama with biases on queries, keys and values, often with the output head
tied to the embedding. Phi: attention and MLP side by side on one LayerNorm, tanh-GELU, biases everywhere, rotary
positions on a part of each head.

Source: Touvron et al. 2023 (Llama 2); Jiang et al. 2023 (Mistral 7B); Qwen team 2024 (Qwen2.5); Gunasekar et al. 2023
and the configuration of microsoft/phi-2 (Phi).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FamilyName = Literal["llama", "mistral", "qwen2", "phi"]


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the language model; the defaults are those of Llama-2 7B.

    vocab_size: rows of the embedding, padding included.
    rms_norm_eps: of every norm (Phi's are LayerNorms). Llama has 1e-6 in published Hugging Face exports and 1e-5 in
        native training; the same weights, other outputs.
    family: which layers, biases and tensor names; the `model_type` of a published text_config.
    tie_word_embeddings: the output head is the embedding, and has no tensor of its own.
    partial_rotary_factor: share of each head's channels, from the first, that rotate with the position.
    sliding_window: tokens a query may look back over; sequences must be shorter. None: all.
    """

    vocab_size: int = 32064
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    family: FamilyName = "llama"
    tie_word_embeddings: bool = False
    partial_rotary_factor: float = 1.0
    sliding_window: int | None = None

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """Channels per head that rotate."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.family in ("qwen2", "phi")

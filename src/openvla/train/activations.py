"""What the forward pass of a training step keeps for its backward pass, in bytes per example.

Counted from the operations of `nn/`, tensor by tensor: a linear layer keeps its input where its weight is trained, a
product both factors, attention its queries, keys, values, output and one log-sum per head. A norm of the language
model keeps its input in float32, whatever the precision. Nothing is kept where no gradient flows: by frozen encoders.

Numbers are per token unless said otherwise. C, F: channels, hidden channels of the MLP; `width`: bytes of a number in
matrix products.
Source: Korthikanti et al. 2022 (activation memory of a transformer), for the method.
"""

from __future__ import annotations

from dataclasses import dataclass

from openvla.model.prismatic import ModelConfig
from openvla.nn.decoder_config import DecoderConfig
from openvla.nn.vit import ViTConfig
from openvla.train.methods import ADAPTERS

FLOAT32 = 4


@dataclass(frozen=True)
class Mode:
    """How the layers of one stack are trained.

    trained: their own weights. rank: of adapters beside their linear layers, 0 without. width: bytes, 2 or 4.
    """

    trained: bool
    rank: int
    width: int

    def inputs(self, channels: int, layers: int = 1, kept: bool = False) -> int:
        """Kept by linear layers that share an input, which `kept` says is kept by others anyway.

        Under autocast every adapter casts the input to float32 and back, so each keeps a copy.
        """
        if not self.rank:
            return self.width * channels if self.trained and not kept else 0
        copies = layers if self.width < FLOAT32 else int(not kept)
        return self.width * (channels * copies + self.rank * layers)


@dataclass(frozen=True)
class Method:
    """What gradients flow through: the encoders or not, and how each stack is trained."""

    vision: Mode | None
    projector: Mode
    layers: Mode
    last_layer: Mode

    @classmethod
    def named(cls, method: str, rank: int, width: int) -> Method:
        """The published method called `method`."""
        whole, frozen = Mode(True, 0, width), Mode(False, 0, width)
        if method in ADAPTERS:
            adapted = Mode(False, rank, width)
            return cls(adapted, adapted, adapted, adapted)
        return {
            "full": cls(whole, whole, whole, whole),
            "frozen-vision": cls(None, whole, whole, whole),
            "last-layer": cls(None, frozen, frozen, whole),
            "sandwich": cls(whole, whole, frozen, whole),
        }[method]


def kept_per_example(config: ModelConfig, method: Method, text_tokens: int, checkpointing: bool) -> int:
    """Bytes that one example of `text_tokens` ids keeps, the logits apart.

    checkpointing: decoder layers keep their input only, and one at a time computes the rest again.
    """
    decoder, count = config.decoder, config.decoder.num_hidden_layers
    tokens = config.num_patches + text_tokens
    sizes = [decoder_layer(decoder, method.layers)] * (count - 1) + [decoder_layer(decoder, method.last_layer)]
    width = method.layers.width
    layers = count * width * decoder.hidden_size + max(sizes) if checkpointing else sum(sizes)
    final_norm = _norm(decoder, method.layers.trained, method.layers.width)
    total = tokens * (layers + final_norm) + config.num_patches * _projector(config, method)
    vision = method.vision
    if vision is not None:
        total += config.images * sum(encoder_bytes(encoder, vision) for encoder in config.encoders)
    return total


def decoder_layer(config: DecoderConfig, mode: Mode) -> int:
    """Bytes per token of one layer of the language model."""
    channels, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
    hidden = config.intermediate_size
    rotary = 4 * mode.width * config.rotary_dim if mode.width < FLOAT32 else 0  # cosines and sines, cast per layer
    mixed = mode.width * (2 * channels + 2 * kv) + FLOAT32 * config.num_attention_heads
    whole = config.rotary_dim == config.head_dim  # else the heads are laid out anew, and attention's output copied
    attention = rotary + mixed + mode.inputs(channels, kept=whole)
    if config.family == "phi":  # one norm before attention and MLP
        shared = mode.inputs(channels, 4)
        return _norm(config, mode.trained, mode.width) + shared + attention + mode.width * hidden + mode.inputs(hidden)
    norms = 2 * _norm(config, mode.trained, mode.width)
    gated = 3 * mode.width * hidden + mode.inputs(hidden)
    return norms + mode.inputs(channels, 3) + attention + mode.inputs(channels, 2) + gated


def _norm(config: DecoderConfig, trained: bool, width: int = 2) -> int:
    if config.family == "phi":
        return width * config.hidden_size + 2 * FLOAT32
    return FLOAT32 * (config.hidden_size + 1) + (width * config.hidden_size if trained else 0)


def encoder_bytes(config: ViTConfig, mode: Mode) -> int:
    """Bytes per picture of one vision encoder, whose last block never runs."""
    channels, hidden, width = config.dim, config.mlp_dim, mode.width
    tokens = config.num_patches + config.prefix_tokens
    residual = FLOAT32 if config.layer_scale else width  # a float32 scale makes the sum float32
    norms = (width + residual) * channels + 4 * FLOAT32
    attention = mode.inputs(channels) + width * 4 * channels + FLOAT32 * config.num_heads
    attention += mode.inputs(channels, kept=True)
    activation = width * hidden * (2 if config.activation == "quick_gelu" else 1)
    mlp = mode.inputs(channels) + activation + mode.inputs(hidden)
    scales = 2 * width * channels if config.layer_scale and mode.trained else 0
    pixels = 3 * width * config.image_size**2
    return pixels + tokens * (config.depth - 1) * (norms + attention + mlp + scales)


def _projector(config: ModelConfig, method: Method) -> int:
    """Bytes per patch. A layer whose input needs no gradient and whose weight is frozen keeps nothing."""
    mode, channels, hidden = method.projector, config.vision_dim, config.decoder.hidden_size
    flows = method.vision is not None or mode.trained
    if not flows:
        return 0
    inner = {"linear": [], "gelu-mlp": [hidden], "fused-gelu-mlp": [4 * channels, hidden]}[config.projector]
    return mode.inputs(channels) + sum(mode.width * size + mode.inputs(size) for size in inner)

"""What the forward pass of a training step keeps for its backward pass, in bytes, layer by layer.

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
from openvla.train.census import Census

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
    def of(cls, counted: Census, rank: int, width: int) -> Method:
        """The method under which parameters were counted. rank: of its adapters, if it has any."""
        if counted.count("adapters"):
            adapted = Mode(False, rank, width)
            return cls(adapted, adapted, adapted, adapted)

        def mode(part: str) -> Mode:
            return Mode(counted.count(part, trained=True) > 0, 0, width)

        last = "language_model.layers.1" if counted.count("language_model.layers.1") else "language_model.layers.0"
        vision = mode("vision_backbone")
        return cls(vision if vision.trained else None, mode("projector"), mode("language_model.layers.0"), mode(last))


def decoder_layer(config: DecoderConfig, mode: Mode) -> tuple[int, int]:
    """Bytes per token of one layer of the language model: of its attention and of its MLP, norms included."""
    channels, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
    hidden = config.intermediate_size
    rotary = 4 * mode.width * config.rotary_dim if mode.width < FLOAT32 else 0  # cosines and sines, cast per layer
    mixed = mode.width * (2 * channels + 2 * kv) + FLOAT32 * config.num_attention_heads
    whole = config.rotary_dim == config.head_dim  # else the heads are laid out anew, and attention's output copied
    attention = norm(config, mode.trained, mode.width) + rotary + mixed + mode.inputs(channels, kept=whole)
    if config.family == "phi":  # one norm before attention and MLP
        return attention + mode.inputs(channels, 4), mode.width * hidden + mode.inputs(hidden)
    gated = mode.inputs(channels, 2) + 3 * mode.width * hidden + mode.inputs(hidden)
    return attention + mode.inputs(channels, 3), norm(config, mode.trained, mode.width) + gated


def norm(config: DecoderConfig, trained: bool, width: int) -> int:
    """Bytes per token of one norm of the language model."""
    if config.family == "phi":
        return width * config.hidden_size + 2 * FLOAT32
    return FLOAT32 * (config.hidden_size + 1) + (width * config.hidden_size if trained else 0)


def encoder_block(config: ViTConfig, mode: Mode) -> int:
    """Bytes per picture of one block of a vision encoder."""
    channels, hidden, width = config.dim, config.mlp_dim, mode.width
    residual = FLOAT32 if config.layer_scale else width  # a float32 scale makes the sum float32
    norms = (width + residual) * channels + 4 * FLOAT32
    attention = mode.inputs(channels) + width * 4 * channels + FLOAT32 * config.num_heads
    attention += mode.inputs(channels, kept=True)
    activation = width * hidden * (2 if config.activation == "quick_gelu" else 1)
    mlp = mode.inputs(channels) + activation + mode.inputs(hidden)
    scales = 2 * width * channels if config.layer_scale and mode.trained else 0
    return (config.num_patches + config.prefix_tokens) * (norms + attention + mlp + scales)


def picture(config: ViTConfig, width: int) -> int:
    """Bytes of the picture itself, which the patch embedding keeps."""
    return 3 * width * config.image_size**2


def projector(config: ModelConfig, method: Method) -> int:
    """Bytes per patch of the projector. A frozen layer whose input needs no gradient keeps nothing."""
    mode, channels, hidden = method.projector, config.vision_dim, config.decoder.hidden_size
    flows = method.vision is not None or mode.trained
    if not flows:
        return 0
    inner = {"linear": [], "gelu-mlp": [hidden], "fused-gelu-mlp": [4 * channels, hidden]}[config.projector]
    return mode.inputs(channels) + sum(mode.width * size + mode.inputs(size) for size in inner)

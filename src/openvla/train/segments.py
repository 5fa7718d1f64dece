"""The memory of a forward and backward pass as it comes and goes, segment by segment.

The forward pass goes through the segments in order, each keeps activations (and, in bfloat16, casts of its trained
matrices); the backward pass goes the other way, frees what they kept and leaves their gradients. So the most is held in
one of the segments, and which one depends on batch and method.
Source: Korthikanti et al. 2022, section 4 (what is kept); Chen et al. 2016, section 3 (recomputation).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla.model.prismatic import ModelConfig
from openvla.train.activations import FLOAT32, Method, Mode, decoder_layer, encoder_block, norm, picture, projector
from openvla.train.census import Census

WORDS = "language_model.embed_tokens"


@dataclass(frozen=True)
class Segment:
    """One layer, or what lies between stacks of them. Bytes; `kept` and `again` are per example.

    kept, casts: from its forward pass until its backward pass is over. again, casts_again: what only its backward pass
    holds, since it computes them anew. gradients: left by its backward pass.
    """

    kept: int = 0
    casts: int = 0
    gradients: int = 0
    again: int = 0
    casts_again: int = 0

    def __add__(self, other: Segment) -> Segment:
        """Both as one segment."""
        return Segment(self.kept + other.kept, self.casts + other.casts, self.gradients + other.gradients)

    def recomputed(self, inputs: int) -> Segment:
        """Keep only `inputs` bytes per example, and compute the rest again."""
        return replace(self, kept=inputs, again=self.kept, casts=0, casts_again=self.casts)


@dataclass(frozen=True)
class _Parts:
    """Bytes of what is trained in a part of the model, adapters beside it included."""

    counted: Census
    width: int

    def segment(self, *names: str, kept: int = 0, layers: int = 1) -> Segment:
        """One of `layers` like layers that are counted together, or what is called `names` in it."""
        trained, matrices = (sum(self._count(name, matrix) for name in names) // layers for matrix in (None, True))
        return Segment(kept, 0 if self.width == FLOAT32 else self.width * matrices, FLOAT32 * trained)

    def _count(self, part: str, matrix: bool | None) -> int:
        return sum(self.counted.count(place + part, True, matrix, runs=True) for place in ("", "adapters."))


def segments(
    config: ModelConfig, counted: Census, rank: int, width: int, text_tokens: int, checkpointing: bool
) -> list[Segment]:
    """The segments of one example of `text_tokens` ids, in the order of the forward pass, the logits apart."""
    parts, method = _Parts(counted, width), Method.of(counted, rank, width)
    words = Segment() if config.decoder.tie_word_embeddings else parts.segment(WORDS)
    patches = parts.segment("projector", kept=config.num_patches * projector(config, method))
    return [
        words,
        *_vision(config, parts, method),
        patches,
        *_layers(config, parts, method, text_tokens, checkpointing),
        _head(config, parts, method, text_tokens),
    ]


def _vision(config: ModelConfig, parts: _Parts, method: Method) -> list[Segment]:
    """Patch embedding and blocks of each encoder; nothing where no gradient reaches them."""
    found: list[Segment] = []
    if method.vision is None:
        return found
    for name, encoder in zip(("featurizer", "fused_featurizer"), config.encoders, strict=False):
        place, blocks = f"vision_backbone.{name}.", encoder.depth - 1
        kept = config.images * encoder_block(encoder, method.vision)
        block = parts.segment(place + "blocks.", kept=kept, layers=max(1, blocks))
        whole = parts.segment(place, kept=config.images * picture(encoder, method.vision.width))
        embedding = replace(
            whole, casts=whole.casts - blocks * block.casts, gradients=whole.gradients - blocks * block.gradients
        )
        found += [embedding, *[block] * blocks]
    return found


def _layers(config: ModelConfig, parts: _Parts, method: Method, text_tokens: int, checkpointing: bool) -> list[Segment]:
    """The decoder: attention and MLP of each layer, or the layer at once where it is computed again."""
    decoder, count = config.decoder, config.decoder.num_hidden_layers
    tokens = config.num_patches + text_tokens

    def halves(number: int, mode: Mode, layers: int) -> list[Segment]:
        place, (attention, mlp) = f"language_model.layers.{number}.", decoder_layer(decoder, mode)
        first = parts.segment(place + "input_layernorm", place + "self_attn", kept=tokens * attention, layers=layers)
        second = parts.segment(place + "post_attention", place + "mlp", kept=tokens * mlp, layers=layers)
        if not checkpointing:
            return [first, second]
        return [(first + second).recomputed(tokens * mode.width * decoder.hidden_size)]

    last = halves(int(count > 1), method.last_layer, 1)
    return [*halves(0, method.layers, max(1, count - 1)) * (count - 1), *last]


def _head(config: ModelConfig, parts: _Parts, method: Method, text_tokens: int) -> Segment:
    """The final norm and the output head. Where that is the embedding, the gradient of the two waits from here on."""
    decoder, mode = config.decoder, method.layers
    kept = (config.num_patches + text_tokens) * norm(decoder, mode.trained, mode.width)
    names = [f"language_model.{name}" for name in ("norm", "final_layernorm", "lm_head")]
    head = parts.segment(*names, kept=kept)
    if not decoder.tie_word_embeddings:
        return head
    table = parts.segment(WORDS)
    cast = 0 if parts.width == FLOAT32 else parts.width * table.gradients // FLOAT32
    return head + replace(table, casts=cast)

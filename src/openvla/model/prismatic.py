"""The vision-language-action model: image encoders, a projector and a decoder (a Prismatic VLM).

Unusual: patches of one or two encoders are joined on the channel axis, projected into the decoder's space and inserted
right after the first token (BOS); everything after is ordinary causal language modelling. An example without an image,
of which only training has any, keeps the room of its patches behind its tokens, where nothing looks at it.
`state_dict()` has exactly the tensor names of a published checkpoint.

Shapes: B batch, K image channels (3 per encoder and image), S image pixels a side, P patches of all images, C encoder
channels in all, T text tokens, N = P + T positions of the fused sequence, D decoder size, V vocabulary.
Source: Karamcheti et al. 2024 (Prismatic), section 3; Kim et al. 2024 (OpenVLA), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from openvla.codec.batch import IGNORE_INDEX
from openvla.model.projector import PROJECTORS, ProjectorName
from openvla.nn.decoder import Decoder
from openvla.nn.decoder_config import DecoderConfig
from openvla.nn.vit import VisionTransformer, ViTConfig


@dataclass(frozen=True)
class ModelConfig:
    """One or two encoders, of the same number of patches, a decoder, and what lies between.

    projector: how patch features become embeddings, a key of `PROJECTORS`. Published models have "gelu-mlp" behind one
        encoder and "fused-gelu-mlp" behind two; any goes with any number.
    images: pictures per example (several cameras, or a history), each seen by every encoder.
    """

    encoders: tuple[ViTConfig, ...]
    decoder: DecoderConfig
    projector: ProjectorName
    images: int = 1

    @property
    def num_patches(self) -> int:
        """Image positions in the fused sequence."""
        return self.images * self.encoders[0].num_patches

    @property
    def vision_dim(self) -> int:
        """Channels of the joined patch features."""
        return sum(encoder.dim for encoder in self.encoders)


@dataclass(frozen=True)
class ModelOutput:
    """logits: float32 (B, P + T, V), position i predicts the token after it. loss: scalar, or None without labels."""

    logits: Float[Tensor, "B N V"]
    loss: Float[Tensor, ""] | None


class VisionBackbone(nn.Module):
    """The encoders side by side; each sees the same picture under its own normalisation."""

    def __init__(self, encoders: tuple[ViTConfig, ...], images: int) -> None:
        super().__init__()
        self.images = images
        self.featurizer = VisionTransformer(encoders[0])
        if len(encoders) == 2:
            self.fused_featurizer = VisionTransformer(encoders[1])

    def forward(self, pixel_values: Float[Tensor, "B K S S"]) -> Float[Tensor, "B P C"]:
        pictures = self.pictures(pixel_values)
        return self.joined([encoder(picture) for encoder, picture in zip(self.children(), pictures, strict=True)])

    def pictures(self, pixel_values: Float[Tensor, "B K S S"]) -> Sequence[Float[Tensor, "N 3 S S"]]:
        """What each encoder sees, the images of an example one after the other."""
        return pixel_values.unflatten(1, (self.images, -1)).flatten(0, 1).split(3, dim=1)

    def joined(self, features: Sequence[Float[Tensor, "N p _"]]) -> Float[Tensor, "B P C"]:
        """The encoders' features side by side, the patches of an example's images one after the other."""
        return torch.cat(list(features), dim=-1).unflatten(0, (-1, self.images)).flatten(1, 2)


class OpenVLA(nn.Module):
    """The whole model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config.encoders, config.images)
        self.projector = PROJECTORS[config.projector](config.vision_dim, config.decoder.hidden_size)
        self.language_model = Decoder(config.decoder)

    def embed(
        self,
        input_ids: Int[Tensor, "B T"],
        pixel_values: Float[Tensor, "B K S S"],
        has_image: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """The fused sequence: first token, patches, remaining tokens; tokens, then zeros, where `has_image` is false.

        Encoders and projector run for every example: all processes of a run must call them, whatever their examples.
        """
        tokens = self.language_model.model.embed_tokens(input_ids)
        patches = self.projector(self.vision_backbone(pixel_values))
        tokens = tokens.to(patches.dtype)  # under autocast the residual stream is bfloat16, as in published training
        fused = torch.cat([tokens[:, :1], patches, tokens[:, 1:]], dim=1)
        if has_image is None:
            return fused
        seen = has_image.to(fused.device, non_blocking=True)[:, None, None]
        return torch.where(seen, fused, F.pad(tokens, (0, 0, 0, patches.shape[1])))

    def hidden_states(
        self,
        input_ids: Int[Tensor, "B T"],
        pixel_values: Float[Tensor, "B K S S"],
        attention_mask: Int[Tensor, "B T"] | Bool[Tensor, "B T"] | None = None,
        has_image: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Decoder states after the final norm. `attention_mask` (1 = token, 0 = right padding) is over `input_ids`."""
        fused = self.embed(input_ids, pixel_values, has_image)
        mask = None
        if attention_mask is not None and not bool(attention_mask.all()):
            mask = causal_mask(self.insert_patches(attention_mask.bool(), True))
        positions = torch.arange(fused.shape[1], device=fused.device).expand(fused.shape[0], -1)
        return self.language_model.model(fused, positions, mask)

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        pixel_values: Float[Tensor, "B K S S"],
        attention_mask: Int[Tensor, "B T"] | Bool[Tensor, "B T"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
    ) -> ModelOutput:
        """Logits at every position, in float32, and with `labels` the mean cross-entropy of the supervised ones."""
        hidden = self.hidden_states(input_ids, pixel_values, attention_mask)
        logits = self.language_model.lm_head(hidden).float()
        if labels is None:
            return ModelOutput(logits, None)
        targets = self.insert_patches(labels, IGNORE_INDEX)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORE_INDEX)
        return ModelOutput(logits, loss)

    def supervised_logits(
        self,
        input_ids: Int[Tensor, "B T"],
        pixel_values: Float[Tensor, "B K S S"],
        labels: Int[Tensor, "B T"],
        has_image: Bool[Tensor, "B"] | None = None,
    ) -> tuple[Float[Tensor, "M V"], Int[Tensor, "M"]]:
        """Logits and targets of the M supervised positions only, row by row: a B x N x V tensor never exists.

        has_image: False for text alone; None where all have one.
        """
        positions, targets = self.supervised_positions(labels, has_image)
        return self.logits_at(input_ids, pixel_values, positions.to(input_ids.device), has_image), targets

    def supervised_positions(
        self, labels: Int[Tensor, "B T"], has_image: Bool[Tensor, "B"] | None = None
    ) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
        """Where in the B x N fused positions a label is to be predicted, and these labels; computed where `labels` are.

        Found on the CPU, they spare a GPU a wait: how many there are decides the sizes of what follows.
        """
        targets = self.insert_patches(labels, IGNORE_INDEX)
        if has_image is not None:
            alone = F.pad(labels, (0, self.config.num_patches), value=IGNORE_INDEX)
            targets = torch.where(has_image[:, None], targets, alone)
        targets = F.pad(targets[:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
        positions = (targets != IGNORE_INDEX).nonzero().flatten()
        return positions, targets[positions]

    def logits_at(
        self,
        input_ids: Int[Tensor, "B T"],
        pixel_values: Float[Tensor, "B K S S"],
        positions: Int[Tensor, "M"],
        has_image: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "M V"]:
        """Logits in float32 at some of the B x N positions.

        Right padding needs no mask here: under the causal mask no supervised position looks at what follows it.
        """
        hidden = self.hidden_states(input_ids, pixel_values, None, has_image)
        return self.language_model.lm_head(hidden.flatten(0, 1)[positions]).float()

    def forward_flops(self, tokens: int) -> float:
        """Floating-point operations of one training forward pass over one example of `tokens` ids.

        Two per weight of the linear layers and position. Left out are what never runs (last encoder blocks, pooling)
        and what is small beside the rest: patch embedding, attention scores, and the head at supervised positions.
        """
        config = self.config
        vision = sum((e.depth - 1) * (4 * e.dim**2 + 2 * e.dim * e.mlp_dim) for e in config.encoders)
        projector = sum(parameter.numel() for parameter in self.projector.parameters())
        decoder = sum(parameter.numel() for parameter in self.language_model.model.layers.parameters())
        patches = config.num_patches
        return 2.0 * (patches * (vision + projector) + (patches + tokens) * decoder)

    def insert_patches(self, per_token: Tensor, value: int | bool) -> Tensor:
        """Extend (B, T) values per token to the fused sequence, with `value` at the patches."""
        patches = per_token.new_full((per_token.shape[0], self.config.num_patches), value)
        return torch.cat([per_token[:, :1], patches, per_token[:, 1:]], dim=1)


def causal_mask(present: Bool[Tensor, "B N"]) -> Bool[Tensor, "B 1 N N"]:
    """True where a query may look: at itself and earlier tokens that are not padding."""
    length = present.shape[1]
    lower = torch.ones(length, length, dtype=torch.bool, device=present.device).tril()
    return lower & present[:, None, None, :]

"""The vision-language-action model: image encoders, a projector and a decoder (a Prismatic VLM).

Unusual: patches of one or two encoders are joined on the channel axis, projected into the decoder's space and inserted
right after the first token (BOS); everything after is ordinary causal language modelling. `state_dict()` has exactly
the tensor names of a published checkpoint.

Shapes: B batch, K image channels (3 per encoder and image), S image pixels a side, P patches of all images, C encoder
channels in all, T text tokens, N = P + T positions of the fused sequence, D decoder size, V vocabulary.
Source: Karamcheti et al. 2024 (Prismatic), section 3; Kim et al. 2024 (OpenVLA), section 3.
"""

from __future__ import annotations

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
        pictures = pixel_values.unflatten(1, (self.images, -1)).flatten(0, 1).split(3, dim=1)
        features = [encoder(picture) for encoder, picture in zip(self.children(), pictures, strict=True)]
        return torch.cat(features, dim=-1).unflatten(0, (-1, self.images)).flatten(1, 2)


class OpenVLA(nn.Module):
    """The whole model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config.encoders, config.images)
        self.projector = PROJECTORS[config.projector](config.vision_dim, config.decoder.hidden_size)
        self.language_model = Decoder(config.decoder)

    def embed(self, input_ids: Int[Tensor, "B T"], pixel_values: Float[Tensor, "B K S S"]) -> Float[Tensor, "B N D"]:
        """The fused sequence: first token, patches, remaining tokens."""
        tokens = self.language_model.model.embed_tokens(input_ids)
        patches = self.projector(self.vision_backbone(pixel_values))
        tokens = tokens.to(patches.dtype)  # under autocast the residual stream is bfloat16, as in published training
        return torch.cat([tokens[:, :1], patches, tokens[:, 1:]], dim=1)

    def hidden_states(
        self,
        input_ids: Int[Tensor, "B T"],
        pixel_values: Float[Tensor, "B K S S"],
        attention_mask: Int[Tensor, "B T"] | Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Decoder states after the final norm. `attention_mask` (1 = token, 0 = right padding) is over `input_ids`."""
        fused = self.embed(input_ids, pixel_values)
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
    ) -> tuple[Float[Tensor, "M V"], Int[Tensor, "M"]]:
        """Logits and targets of the M supervised positions only, row by row: a B x N x V tensor never exists.

        Right padding needs no mask here: under the causal mask no supervised position looks at what follows it.
        """
        hidden = self.hidden_states(input_ids, pixel_values)
        targets = self.insert_patches(labels, IGNORE_INDEX)[:, 1:]
        chosen = targets != IGNORE_INDEX
        return self.language_model.lm_head(hidden[:, :-1][chosen]).float(), targets[chosen]

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

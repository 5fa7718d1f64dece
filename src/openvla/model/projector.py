"""From the encoders' patch features to the decoder's embeddings: three published forms, whatever the encoders.

Attribute names are those of the published Hugging Face classes; `linear`, which these lack, is one layer.

Shapes: B batch, P patches, C encoder channels in all, D decoder size.
Source: Karamcheti et al. 2024 (Prismatic), section 3 and its `arch_specifier`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ProjectorName = Literal["linear", "gelu-mlp", "fused-gelu-mlp"]


class GeluMLP(nn.Module):
    """Two layers around a GELU."""

    def __init__(self, vision_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_dim, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Float[Tensor, "B P C"]) -> Float[Tensor, "B P D"]:
        return self.fc2(F.gelu(self.fc1(features)))


class FusedGeluMLP(nn.Module):
    """Three layers around two GELUs, the inner one four times as wide as the features."""

    def __init__(self, vision_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_dim, 4 * vision_dim)
        self.fc2 = nn.Linear(4 * vision_dim, hidden_size)
        self.fc3 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Float[Tensor, "B P C"]) -> Float[Tensor, "B P D"]:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))


PROJECTORS: dict[ProjectorName, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "gelu-mlp": GeluMLP,
    "fused-gelu-mlp": FusedGeluMLP,
}

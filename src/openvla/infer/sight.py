"""What the decoder reads of an observation: a picture that is still to be encoded, or features from beside the camera.

Shapes: B observations, C channels of pixels or features, S pixels a side, P patches, D decoder size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from openvla.infer.engine import Engine
from openvla.serve.features.features import EncodedObservation
from openvla.spec import Observation

IMAGE = "image"


@dataclass(frozen=True)
class Sight:
    """One observation's part of a batch: pixels (1, C, S, S), or bfloat16 features (1, P, C) of the place `cut`."""

    cut: str
    values: Tensor


def sight(observation: Observation, pixels: Callable[[Sequence[Observation]], Tensor]) -> Sight:
    """`pixels` prepares a picture; raises what it raises."""
    if not isinstance(observation, EncodedObservation):
        return Sight(IMAGE, pixels([observation]))
    bits = torch.from_numpy(observation.features.astype(np.uint16).view(np.int16))
    return Sight(observation.cut, bits.view(torch.bfloat16)[None])


def embed(engine: Engine, sights: Sequence[Sight]) -> Float[Tensor, "B P D"]:
    """The decoder's embeddings of all, in order; what came from the same place is computed together.

    Raises InputError for pictures that the model does not take.
    """
    rows: list[tuple[int, Tensor]] = []
    for cut in sorted({each.cut for each in sights}):
        places = [place for place, each in enumerate(sights) if each.cut == cut]
        embeddings = _embed(engine, cut, torch.cat([sights[place].values for place in places]))
        if len(places) == len(sights):
            return embeddings
        rows += zip(places, embeddings.clone(), strict=True)
    return torch.stack([row for _, row in sorted(rows, key=lambda each: each[0])])


def _embed(engine: Engine, cut: str, values: Tensor) -> Tensor:
    if cut == IMAGE:
        return engine.see(values)
    features = values.to(engine.device, engine.dtype)
    return engine.model.projector(features) if cut == "encoders" else features

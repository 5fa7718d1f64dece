from __future__ import annotations

import numpy as np
import pytest
import torch

from openvla.codec.images import NORMALIZATION, ImageTransform
from openvla.train.pixels import normalized


@pytest.mark.parametrize("per_encoder", [False, True])
@pytest.mark.parametrize("encoders", [("siglip",), ("dinov2", "siglip")])
def test_the_device_normalises_bit_for_bit_as_the_codec_does(encoders: tuple[str, ...], per_encoder: bool) -> None:
    means, stds = zip(*(NORMALIZATION[name] for name in encoders), strict=True)
    images = ImageTransform("letterbox", (16,) * len(encoders), means, stds, fill_per_encoder=per_encoder)
    random = np.random.default_rng(0)
    stored = [images.views(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(5)]
    assert len(stored[0]) == (2 if per_encoder and len(encoders) == 2 else 1)
    ours = normalized(torch.from_numpy(np.stack([np.stack(views) for views in stored])), images)
    assert ours.dtype == torch.float32
    assert np.array_equal(ours.numpy(), np.stack([images.normalize(views) for views in stored]))


def test_every_level_of_every_channel_is_that_of_the_codec() -> None:
    means, stds = zip(NORMALIZATION["dinov2"], NORMALIZATION["clip"], strict=True)
    images = ImageTransform("resize-naive", (16, 16), means, stds)
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    ours = normalized(torch.from_numpy(levels[None, None]), images)
    assert np.array_equal(ours[0].numpy(), images(levels))

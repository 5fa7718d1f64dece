"""Conversations about images in a run: alone, to train a vision-language model, or mixed with the frames of robots.

Mixed (co-fine-tuning), they are one more source that the sampler draws from by its share, so that their position, like
that of every data set, follows from the step; both pass through one loss, over all supervised positions. What a policy
keeps of what its language model knew is measured on conversations that are held out.

Source: Brohan et al. 2023 (RT-2, arXiv:2307.15818), section 3.2, co-fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence

from openvla.data.bad import BadData
from openvla.data.llava import Llava, find_llava
from openvla.data.loading.batches import Batches
from openvla.data.loading.image_text import ImageText
from openvla.train.config import TrainConfig


def check_conversations(config: TrainConfig) -> None:
    """Raise DataError where their file is not there, before a model is downloaded to train on it."""
    if config.image_text is not None:
        find_llava(config.image_text)


def open_conversations(config: TrainConfig, bad: BadData) -> ImageText | None:
    """The conversations that the run trains on, if any. Raises DataError for a file that is no such JSON."""
    if config.image_text is None:
        return None
    llava = Llava(config.image_text, config.image_text_images, config.captions, bad)
    return ImageText(llava, config.hold_out, config.captions, config.image_text_tokens)


def held_out_conversations(training: Batches) -> ImageText | None:
    """The conversations that `training` does not show; None where it has none, or where none is held out."""
    source = training.sources[-1]
    return source.held_out if isinstance(source, ImageText) else None


def mixed(weights: Sequence[float], ratio: float) -> list[float]:
    """The weights of data sets with that of the conversations behind them, whose share is `ratio` in (0, 1]."""
    return [(1 - ratio) * weight / sum(weights) for weight in weights] + [ratio]

"""Before a run: will the policy see, read and do in use what it is about to be trained on?

Ten frames go both ways. Training makes examples of them with the codec in memory; use reads the codec back from the
files that a checkpoint would hold, encodes the recorded picture and words, and turns the example's action tokens into
robot units again, which must be the recorded action to within half a bin. Random crops and colours are left out.

Shapes: chunk consecutive actions of dim values.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from openvla.codec.batch import IGNORE_INDEX
from openvla.codec.codec import Codec
from openvla.codec.statistics import FieldStatistics, normalize
from openvla.data.doctor.parity import CLOSE, levels
from openvla.data.images.pixels import decode_image
from openvla.data.loading.batches import Batches
from openvla.data.loading.frames import Frames
from openvla.errors import OpenVLAError, TrainingError

FRAMES = 10


def check_agreement(batches: Batches, codec: Codec, augment: bool) -> None:
    """Raise TrainingError, with one sentence, where training and use differ on frames of `batches`.

    augment: frames come with random crops and colours, so the pictures as they were recorded are taken instead.
    """
    try:
        with tempfile.TemporaryDirectory() as place:
            codec.save(place)
            served = dataclasses.replace(Codec.load(place), training_crop=None)
    except OpenVLAError as error:
        raise TrainingError(f"the codec of this run cannot be read back from its files: {error}") from error
    for frames, numbers in _chosen(batches):
        found = [_Both(frames, int(number), codec, served, augment) for number in numbers]
        trouble = [*_inputs(found), *_actions(found, frames.statistics, codec.spec.names)]
        if trouble:
            raise TrainingError(
                f"the policy would not meet in use what it is trained on: in {len(found)} frames of "
                f"{frames.index.header.origin.dataset!r}, {'; '.join(trouble)}; start from a checkpoint whose "
                "codec.json and dataset_statistics.json belong to this data, or leave out --doctor"
            )


class _Both:
    """One frame, as an example of training and as use has it."""

    def __init__(self, frames: Frames, number: int, codec: Codec, served: Codec, augment: bool) -> None:
        row = int(frames.rows(number))
        data, words, self.recorded = frames.fetch(row)
        camera = decode_image(data, "the image")
        shown = camera if augment else frames.image(data, row)
        example = codec.encode_example(shown, words, normalize(self.recorded, frames.statistics))
        prompt = served.encode_prompt(words)
        self.words_differ = example.input_ids[example.labels == IGNORE_INDEX].tolist() != prompt
        trained, seen = example.pixel_values, served.encode_image(camera)
        self.levels = (
            float(np.abs(levels(trained, served) - levels(seen, served)).mean())
            if trained.shape == seen.shape
            else float("inf")
        )
        tokens = example.labels[example.labels != IGNORE_INDEX][:-1].reshape(self.recorded.shape)
        self.done = served.decode_tokens(tokens, frames.index.header.origin.dataset)


def _chosen(batches: Batches) -> Iterator[tuple[Frames, NDArray[np.int64]]]:
    """Frames spread over the data sets of a run, at least one of each."""
    robots = [source for source in batches.sources if isinstance(source, Frames) and len(source)]
    for frames in robots:
        count = min(len(frames), max(1, FRAMES // len(robots)))
        yield frames, np.linspace(0, len(frames) - 1, count).astype(np.int64)


def _inputs(found: list[_Both]) -> list[str]:
    worst, words = max(each.levels for each in found), sum(each.words_differ for each in found)
    trouble = [f"pictures differ by {worst:.3g} of 255 levels on average"] if worst > CLOSE else []
    return trouble + ([f"{words} prompts differ"] if words else [])


def _actions(found: list[_Both], statistics: FieldStatistics, names: tuple[str, ...]) -> list[str]:
    """What does not come back as it was recorded, or lies outside of what tokens can say, in most frames."""
    recorded, done = (np.stack([getattr(each, name) for each in found]) for name in ("recorded", "done"))
    free = ~statistics.normalized
    low, high = np.where(free, -1.0, statistics.q01), np.where(free, 1.0, statistics.q99)
    constant = statistics.min == statistics.max
    expected = np.where(constant, done, np.clip(recorded, low, high))
    bin_width = (high - low) / 255
    off = np.abs(done - expected).max(axis=(0, 1)) > 0.51 * bin_width + 1e-6
    outside = np.mean((recorded < low - bin_width) | (recorded > high + bin_width), axis=(0, 1)) > 0.5
    trouble = [f"the action's {names[n]} does not come back from its tokens" for n in np.flatnonzero(off)[:1]]
    beyond = [names[n] for n in np.flatnonzero(outside & ~constant)]
    return trouble + ([f"most values of {', '.join(beyond)} lie outside of the statistics' range"] if beyond else [])

"""Does a policy see in use what it saw in training? The same frames through both paths of one `Codec`.

Training encodes a stored frame as an example; a policy encodes the picture it is shown. Random crops of training are
left out on both sides. A difference means that the checkpoint's image pipeline treats a stored frame and a live one
differently, and is given in levels of 0..255.

Shapes: S model input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openvla.codec.codec import Codec
from openvla.data.doctor.findings import ERROR, NOTE, OK, WARNING, Finding
from openvla.spec import Observation

FRAMES = 8
CLOSE = 3.0
"""Mean levels that one pass through JPEG explains."""


def parity(samples: Sequence[tuple[NDArray[np.uint8], str]], codec: Codec | None) -> Finding:
    """samples: frames uint8 (H, W, 3) with their instructions. codec: of the policy; None where there is none."""
    name = "train/serve parity"
    if codec is None:
        return Finding(name, NOTE, None, "not checked: no policy was named", "give one with --checkpoint")
    if not samples:
        return Finding(name, NOTE, None, "not checked: there is no frame with an instruction", "--fix label=WORDS")
    whole = dataclasses.replace(codec, training_crop=None)
    differences, other_words = list[float](), 0
    for image, words in samples[:FRAMES]:
        shown = Observation(image, words)
        example = whole.encode_example(image, words, np.zeros((codec.chunk, codec.action_dim or 1)))
        seen = whole.encode_image(shown.image)
        differences.append(float(np.abs(levels(example.pixel_values, whole) - levels(seen, whole)).mean()))
        prompt = whole.encode_prompt(shown.instruction)
        other_words += example.input_ids[: len(prompt)].tolist() != prompt
    worst = max(differences)
    text = f"{len(differences)} frames: images differ by {worst:.3g} levels on average, {other_words} prompts differ"
    if other_words or worst > CLOSE:
        return Finding(name, ERROR, worst, text, "use the codec.json that the policy was trained with")
    if worst > 0:
        remedy = "the policy encodes live pictures as JPEG first, stored ones are used as they are; this is usual"
        return Finding(name, NOTE if worst <= CLOSE else WARNING, worst, text, remedy)
    return Finding(name, OK, worst, text + "; training and use see the same")


def levels(pixels: NDArray[np.float32], codec: Codec) -> NDArray[np.float64]:
    """Model input back in 0..255."""
    means = np.concatenate([np.asarray(mean) for mean in codec.images.means])[:, None, None]
    stds = np.concatenate([np.asarray(std) for std in codec.images.stds])[:, None, None]
    return (pixels.astype(np.float64) * stds + means) * 255

"""Captions and conversations about an image as training examples, supervised at what the model is to say.

    caption        <s> caption </s>                               the published align stage: nobody asks
    conversation   <s> question | answer </s> | question | ...    turn by turn, in the chat format of the model

As published, each turn is tokenised by itself, without its trailing white space where the tokenizer writes spaces as
"▁", and what is longer than the limit is cut off. Images go through the checkpoint's own transform, whatever way robot
frames come to size. A conversation without an image carries zeros that the model does not look at.

Shapes: H, W image; V, S views and size of the image input; T ids.
Source: Karamcheti et al. 2024 (Prismatic), section 2, and its align and finetune data sets; Liu et al. 2023 (LLaVA),
section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openvla.codec.batch import IGNORE_INDEX, Example
from openvla.codec.codec import Codec
from openvla.codec.conversation import Conversation
from openvla.codec.prompt import chat_of
from openvla.errors import InputError

Picture = NDArray[np.uint8] | None


def encode_caption(codec: Codec, caption: str, image: NDArray[np.uint8], limit: int) -> Example:
    """The example of an image uint8 (H, W, 3) and its caption; the first token alone is not supervised.

    limit: T at most. Raises InputError for a caption of which nothing is left, CheckpointError without a tokenizer.
    """
    ids = [*codec.words.of_text(caption.strip()), codec.eos_token_id]
    return _example(codec, ids, [IGNORE_INDEX, *ids[1:]], image, limit)


def encode_conversation(codec: Codec, turns: Sequence[str], image: Picture, limit: int) -> Example:
    """The example of question, answer, question, ..., about an image uint8 (H, W, 3), or about none.

    limit: T at most. Raises InputError where no answer begins before the limit, CheckpointError without a tokenizer or
    for a prompt of no known chat format.
    """
    talk, writes_spaces = Conversation(chat_of(codec.prompt)), codec.suffix_token_id is not None
    ids: list[int] = []
    labels: list[int] = []
    for number, message in enumerate(turns):
        answers = number % 2 == 1
        text = talk.answer(message) if answers else talk.say(message)
        text = text.rstrip() if writes_spaces else text
        found = codec.words.of_text(text, special=False) if ids else codec.words.of_opening(text)
        ids += found
        labels += found if answers else [IGNORE_INDEX] * len(found)
    return _example(codec, ids, labels, image, limit)


def _example(codec: Codec, ids: list[int], labels: list[int], image: Picture, limit: int) -> Example:
    kept = labels[:limit]
    if all(label == IGNORE_INDEX for label in kept):
        raise InputError(
            f"no answer begins within the first {limit} of its {len(ids)} tokens, so there is nothing to learn; "
            "shorten the question, or raise the limit"
        )
    size = codec.images.size
    pixels = np.zeros((len(codec.images.fills), size, size, 3), np.uint8) if image is None else codec.stored(image)
    return Example(pixels, np.asarray(ids[:limit], np.int64), np.asarray(kept, np.int64), image is not None)

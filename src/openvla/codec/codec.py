"""The interpreter between the world and the model: images and words to tensors, token ids to robot actions.

Training data, local inference and the server all translate through one `Codec`, which travels with the weights as
`codec.json`, `tokenizer.json` and `dataset_statistics.json`. A training sequence is assembled from ids, not from text:

    <s> prompt "▁" | action tokens, step by step, dimension by dimension | </s>

which is what tokenising the published training string gives. Labels cover the action tokens and </s>.

Shapes: H, W image; C, S channels and size of the image input; chunk consecutive actions of dim values; T ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from openvla.codec import document, published
from openvla.codec.actions import ActionTokenizer
from openvla.codec.batch import IGNORE_INDEX, Example
from openvla.codec.crop import center_crop
from openvla.codec.families import LLAMA_SUFFIX_TOKEN
from openvla.codec.images import ImageTransform
from openvla.codec.pipelines import PIPELINES
from openvla.codec.prompt import Prompt
from openvla.codec.statistics import DatasetStatistics, load_statistics, save_statistics, select, unnormalize
from openvla.codec.tokenizer import tokenizer_text
from openvla.codec.words import Words
from openvla.errors import CheckpointError, InputError, lookup
from openvla.files import write_text
from openvla.spec import ActionSpec, check_image, conventional_spec


@dataclass(frozen=True, eq=False)
class Codec:
    """Everything that must agree between training and use of a policy.

    prompt, actions, images: the three translators.
    tokenizer: None where the checkpoint has none; then only what needs text fails.
    statistics: by data set, to undo the normalisation of actions; may be empty.
    action: what the actions mean; None where the checkpoint does not say (see `spec`).
    chunk: consecutive actions per prediction.
    cameras: the name of the image that the model sees.
    image_pipeline: a key of `pipelines.PIPELINES`, how images came to size in training and do so in use.
    training_crop: area (0, 1] of the random crops the model was trained on, or None for whole images.
    suffix_token_id: ends every prompt, once; None where the language model has no such token.
    bos_token_id, eos_token_id, pad_token_id: first id of a prompt, stop token, padding.

    Raises InputError for a chunk below 1, any number of cameras but 1, a crop outside (0, 1], and special ids that are
    negative or action tokens; UsageError for an unknown pipeline.
    """

    actions: ActionTokenizer
    images: ImageTransform
    prompt: Prompt = field(default_factory=Prompt)
    tokenizer: Tokenizer | None = None
    statistics: Mapping[str, DatasetStatistics] = field(default_factory=dict[str, DatasetStatistics])
    action: ActionSpec | None = None
    chunk: int = 1
    cameras: tuple[str, ...] = ("image",)
    image_pipeline: str = "processor"
    training_crop: float | None = None
    suffix_token_id: int | None = LLAMA_SUFFIX_TOKEN
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 32000

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise InputError(f"the chunk is {self.chunk}; a policy predicts at least 1 action at a time")
        if len(self.cameras) != 1:
            raise InputError(
                f"the codec names {len(self.cameras)} cameras ({', '.join(self.cameras) or 'none'}), but a model sees "
                "one image; name that one"
            )
        lookup(self.image_pipeline, PIPELINES, "image pipeline")
        if self.training_crop is not None and not 0 < self.training_crop <= 1:
            raise InputError(f"the training crop is {self.training_crop}; it is an area above 0 and up to 1, or None")
        for name in ("suffix_token_id", "bos_token_id", "eos_token_id", "pad_token_id"):
            token = getattr(self, name)
            if token is not None and (token < 0 or token in self.actions.token_range):
                raise InputError(
                    f"{name} is {token}, which must not be negative nor one of the action tokens "
                    f"{self.actions.token_range.start}..{self.actions.token_range.stop - 1}"
                )

    @property
    def action_dim(self) -> int | None:
        """Dimensions of one action, or None where neither the spec nor the statistics tell."""
        dims = {entry.action.dim for entry in self.statistics.values()}
        if self.action is not None:
            return self.action.dim
        return dims.pop() if len(dims) == 1 else None

    @property
    def spec(self) -> ActionSpec:
        """What the actions mean; by convention where only their number is known.

        Raises CheckpointError where not even that is known.
        """
        if self.action is not None:
            return self.action
        if self.action_dim is None:
            raise CheckpointError(
                f"the number of action dimensions is unknown: there is no action spec, and {len(self.statistics)} sets "
                "of statistics that agree on none; add dataset_statistics.json of the training data"
            )
        return conventional_spec(self.action_dim)

    @cached_property
    def words(self) -> Words:
        """What makes ids of text."""
        return Words(self.tokenizer, self.prompt, self.bos_token_id, self.suffix_token_id)

    def encode_prompt(self, instruction: str) -> list[int]:
        """Ids of the prompt for one instruction, first token of the sequence included, ending with the suffix token.

        Raises CheckpointError without a tokenizer, and for one that does not belong to the checkpoint.
        """
        return self.words.of_prompt(instruction)

    def encode_image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (C, S, S) of a camera image uint8 (H, W, 3), at inference: the centre, if the training took crops.

        Raises InputError for what `spec.check_image` refuses, and for images too long to keep their aspect ratio.
        """
        check_image(image, "image")
        sized = PIPELINES[self.image_pipeline](image, self.images.size)
        if self.training_crop is None:
            return self.images(sized)
        return self.images.normalize([center_crop(view, self.training_crop) for view in self.images.views(sized)])

    def encode_example(self, image: NDArray[np.uint8], instruction: str, action: NDArray[np.floating[Any]]) -> Example:
        """One training example.

        Arguments and errors as `encode_stored`.
        """
        example = self.encode_stored(image, instruction, action)
        return dataclasses.replace(example, pixel_values=self.images.normalize(list(example.pixel_values)))

    def encode_stored(self, image: NDArray[np.uint8], instruction: str, action: NDArray[np.floating[Any]]) -> Example:
        """`encode_example` with the pixels left uint8, at most a quarter of the bytes, for the device to normalise.

        image: uint8 (H, W, 3), a stored frame; or (S, S, 3), as `data.pixels.Pixels` made and augmented it.
        action: (chunk, dim), normalised to [-1, 1].
        Raises InputError for an action of another shape, or with NaN, and for images as `encode_image`.
        """
        self._check_action_shape(action.shape)
        pixels = self.stored_frame(image)
        [(ids, labels)] = self.encode_sequences([instruction], action[None])
        return Example(pixels, ids, labels)

    def encode_sequences(
        self, instructions: Sequence[str], actions: NDArray[np.floating[Any]]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(input_ids, labels) of B examples, int64 (T,) each, as in `Example`; T goes by the instruction.

        actions: (B, chunk, dim), normalised to [-1, 1]. Raises InputError for another shape, and for NaN.
        """
        self._check_action_shape(actions.shape[1:])
        targets = self.actions.encode(actions).reshape(len(actions), -1)
        sequences: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for words, target in zip(instructions, targets.tolist(), strict=True):
            prompt = self.encode_prompt(words)
            ids = np.array([*prompt, *target, self.eos_token_id], np.int64)
            labels = ids.copy()
            labels[: len(prompt)] = IGNORE_INDEX
            sequences.append((ids, labels))
        return sequences

    def stored_frame(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`stored` of a frame, brought to size as in training; shares memory with an image that needs nothing."""
        check_image(image, "image")
        stored = "training" if self.image_pipeline == "evaluation" else self.image_pipeline  # it has been a JPEG
        return self.stored(PIPELINES[stored](image, self.images.size))

    def stored(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (V, S, S, 3): what the checkpoint's transform makes of an image uint8 (H, W, 3) before it normalises.

        V is 1, or one for each encoder where their padding differs. Raises InputError as `ImageTransform.views`.
        """
        views, wanted = self.images.views(image), len(self.images.fills)
        return views[0][None] if wanted == 1 else np.stack(views * (wanted // len(views)))

    def decode_tokens(self, ids: NDArray[np.integer[Any]], key: str | None = None) -> NDArray[np.float64]:
        """Actions float64 (chunk, dim) in robot units from token ids of the same shape.

        key: which statistics to undo the normalisation with; None is enough where there is one.
        Raises UsageError listing the keys, CheckpointError where there are no statistics, InputError for another dim.
        """
        if not self.statistics:
            raise CheckpointError(
                "the checkpoint has no statistics, so its tokens cannot be turned into robot units; "
                "add dataset_statistics.json of the training data"
            )
        return unnormalize(self.actions.decode(ids), select(self.statistics, key).action)

    def save(self, directory: str | Path) -> None:
        """Write codec.json and, where present, tokenizer.json and dataset_statistics.json; each whole or not at all."""
        folder = Path(directory)
        if self.statistics:
            save_statistics(folder / "dataset_statistics.json", self.statistics)
        if self.tokenizer is not None:
            write_text(folder / "tokenizer.json", tokenizer_text(self.tokenizer), CheckpointError)
        document.write_codec(folder / "codec.json", _own_fields(self))

    @classmethod
    def load(cls, directory: str | Path) -> Codec:
        """Read what `save` wrote. Raises CheckpointError naming file and field, DataError for damaged statistics."""
        folder = Path(directory)
        path = folder / "dataset_statistics.json"
        with document.invalid_values_of(folder / "codec.json"):
            return cls(
                tokenizer=published.read_tokenizer(folder),
                statistics=load_statistics(path) if path.is_file() else {},
                **document.read_codec(folder / "codec.json"),
            )

    @classmethod
    def from_published(cls, config: Mapping[str, Any], directory: str | Path) -> Codec:
        """The codec of a published Hugging Face directory, whose config.json is `config`.

        Raises CheckpointError naming file and field, DataError for damaged statistics.
        """
        folder = Path(directory)
        where = str(folder / "config.json")
        with document.invalid_values_of(folder / "config.json"):
            actions = published.read_actions(config, where)
            tokenizer = published.read_tokenizer(folder)
            special = published.read_special_tokens(config, where)
            return cls(
                actions=actions,
                images=published.read_images(config, folder, where),
                prompt=published.read_prompt(config, where),
                tokenizer=tokenizer,
                statistics=published.read_statistics(config, folder, where),
                suffix_token_id=published.suffix_token(config, tokenizer, actions.vocab_size),
                bos_token_id=special["bos_token_id"],
                eos_token_id=special["eos_token_id"],
                pad_token_id=special["pad_token_id"],
            )

    def _check_action_shape(self, shape: tuple[int, ...]) -> None:
        dim = self.action_dim
        if len(shape) != 2 or shape[0] != self.chunk or dim not in (None, shape[1]):
            raise InputError(
                f"the action has shape {shape}, but the codec takes (chunk {self.chunk}, dim {dim or 'any'}); use data "
                "with this action dimension, or a codec made for this data"
            )


def _own_fields(codec: Codec) -> dict[str, Any]:
    """What codec.json holds: all but the parts with files of their own."""
    return {
        item.name: getattr(codec, item.name)
        for item in dataclasses.fields(codec)
        if item.name not in ("tokenizer", "statistics")
    }

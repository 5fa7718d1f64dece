"""A vision-language model put together from its parts: published encoders, a language model, and a new projector.

The language model's vocabulary grows or shrinks to that of the preset: new rows, the padding token's among them, are
drawn as published, from a normal distribution of standard deviation 0.02, and so is the projector from its usual one.
Types are brought to the narrowest that holds all values of the parts.

Shapes: V rows of the vocabulary, D decoder size.
Source: Karamcheti et al. 2024 (Prismatic), section 2; the published backbones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken
from torch import Tensor

from openvla.codec.codec import Codec
from openvla.codec.fields import read_object
from openvla.errors import CheckpointError, lookup
from openvla.model.backbones import LANGUAGE_MODELS
from openvla.model.checkpoint import Checkpoint
from openvla.model.lazy import LazyTensor, MadeTensor
from openvla.model.locate import CONFIG, resolve
from openvla.model.native import add_vision
from openvla.model.presets import PRESETS, Preset
from openvla.model.projector import PROJECTORS
from openvla.model.published import write_config
from openvla.model.source import check_finite, common_dtype, empty_model
from openvla.model.text_config import read_decoder
from openvla.model.weights import check_tensors, open_weights

LANGUAGE = "language_model."
HEAD = "lm_head.weight"
VOCABULARY = ("model.embed_tokens.weight", HEAD, "lm_head.bias")
NEW_ROWS_STD = 0.02


def assemble(name: str, language_model: str | Path | None, vision_weights: Sequence[Path], seed: int) -> Checkpoint:
    """The untrained vision-language model `name` of the registry, over the weights of its parts.

    language_model: a Hugging Face directory or a hub id, with its tokenizer.json; None takes the hub's.
    vision_weights: the timm, Meta or open_clip file of each encoder; none takes the hub's. seed: of what no part has.
    Raises UsageError for an unknown preset, CheckpointError for parts that are damaged or of another model.
    """
    preset = lookup(name, PRESETS, "preset")
    directory = _directory(preset, language_model)
    _check_sizes(preset, name, directory)
    codec = _codec(preset, directory)
    vision = add_vision({}, preset.model, preset.timm_ids, vision_weights, Path(name))
    language = _language(directory, preset, seed)
    tensors = vision | _projector(preset, seed) | language
    model = empty_model(preset.model, directory / CONFIG)
    expected = model.state_dict()
    check_tensors(tensors, expected, directory)
    weights = {each: tensors[each].mapped() for each in expected}
    check_finite({each: weights[each] for each in vision}, Path(name))
    check_finite({each: weights[each] for each in language}, directory)
    dtype = common_dtype(tensors)
    model.load_state_dict({each: tensor.to(dtype) for each, tensor in weights.items()}, assign=True)
    return Checkpoint(model, codec, write_config(preset))


def _directory(preset: Preset, language_model: str | Path | None) -> Path:
    """Where the language model lies."""
    if language_model is not None:
        return resolve(language_model)[0]
    try:
        return resolve(LANGUAGE_MODELS[preset.llm_backbone].hub)[0]
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or name a directory with the language model by --language-model") from error


def _check_sizes(preset: Preset, name: str, directory: Path) -> None:
    """Raise CheckpointError for a language model of other sizes than the preset's, the vocabulary excepted."""
    wanted, where = preset.model.decoder, directory / CONFIG
    found = read_decoder(read_object(where), preset.llm_backbone, str(where))
    for field in dataclasses.fields(wanted):
        theirs, ours = getattr(found, field.name), getattr(wanted, field.name)
        if field.name != "vocab_size" and theirs != ours:
            raise CheckpointError(
                f"{directory} is another language model than that of {name!r}: its {field.name} is {theirs}, the "
                f"preset's {ours}; the preset is made for {LANGUAGE_MODELS[preset.llm_backbone].hub}"
            )


def _codec(preset: Preset, directory: Path) -> Codec:
    """The codec of the preset with the language model's tokenizer, which gets the tokens that published training adds.

    Images of robots will come to size as in published training. Raises CheckpointError where there is no tokenizer.
    """
    codec = Codec.from_published(write_config(preset), directory)
    if codec.tokenizer is None:
        raise CheckpointError(f"{directory} has no tokenizer.json, which training on text needs; add that of the model")
    size = max(codec.pad_token_id + 1, codec.actions.vocab_size)
    added = [f"<|extra_{number}|>" for number in range(size - codec.tokenizer.get_vocab_size())]
    if added and codec.pad_token_id == size - 1:
        added[-1] = "<PAD>"
    codec.tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in added])
    return dataclasses.replace(codec, image_pipeline="training")


def _projector(preset: Preset, seed: int) -> dict[str, LazyTensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = preset.model
        made = PROJECTORS[model.projector](model.vision_dim, model.decoder.hidden_size)
    state = {f"projector.{name}": tensor for name, tensor in made.state_dict().items()}
    return {name: MadeTensor(tensor.dtype, tuple(tensor.shape), tensor.detach) for name, tensor in state.items()}


def _language(directory: Path, preset: Preset, seed: int) -> dict[str, LazyTensor]:
    """The tensors of the language model by their names in the whole, with the preset's vocabulary."""
    tensors = {name: tensor for name, tensor in open_weights(directory).items() if not name.endswith(".inv_freq")}
    if preset.model.decoder.tie_word_embeddings:
        tensors.pop(HEAD, None)
    rows = preset.model.decoder.vocab_size
    for number, name in enumerate(VOCABULARY):
        if name in tensors and tensors[name].shape[0] != rows:
            tensors[name] = _with_rows(tensors[name], rows, seed + number)
    return {LANGUAGE + name: tensor for name, tensor in tensors.items()}


def _with_rows(table: LazyTensor, rows: int, seed: int) -> LazyTensor:
    """The first `rows` of a table (V, ...), and new ones where it has fewer."""
    shape = (rows, *table.shape[1:])

    def make() -> Tensor:
        kept = table.mapped()[:rows]
        new = torch.randn((rows - len(kept), *shape[1:]), generator=torch.Generator().manual_seed(seed))
        return torch.cat([kept, (NEW_ROWS_STD * new).to(kept.dtype)])

    return MadeTensor(table.dtype, shape, make)

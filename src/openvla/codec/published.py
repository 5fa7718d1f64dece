"""What a published Hugging Face checkpoint says about its codec, part by part.

Such a directory has no codec.json; the parts are spread over config.json, preprocessor_config.json, tokenizer.json and
dataset_statistics.json. Three things are not where one looks for them: the tokenizer's size is the padded embedding
size less `pad_to_multiple_of` (32064 - 64); the normalisation constants are `tvf_normalize_params`, which the published
conversion rounded to bfloat16, and not `means` and `stds`; and the prompt goes with the language model.

A directory without preprocessor_config.json is a native run, whose images are prepared by the quirks of native code:
see `images`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from openvla.codec.actions import ActionTokenizer
from openvla.codec.families import FAMILIES, LLAMA_SUFFIX_TOKEN
from openvla.codec.fields import INTEGER, NUMBER, OBJECT, RESTORE, TEXT, list_of, nullable, some_fields
from openvla.codec.images import NORMALIZATION, ImageTransform
from openvla.codec.prompt import PROMPTS, Prompt
from openvla.codec.statistics import DatasetStatistics, load_statistics
from openvla.errors import CheckpointError
from openvla.files import read_json

LLAMA_VOCAB = 32000

SHORT_SIDES = {"vit_base_patch16_clip_224.openai": 248}
"""Encoders whose short side native code resizes to more than the crop; for SigLIP and IN1K it forces the two equal."""

_TRIPLE = list_of(NUMBER, 3)
_PROCESSOR = {
    "image_resize_strategy": TEXT,
    "input_sizes": list_of(list_of(INTEGER, 3)),
    "means": list_of(_TRIPLE),
    "stds": list_of(_TRIPLE),
    "tvf_normalize_params": nullable(list_of(OBJECT)),
    "tvf_letterbox_fill": nullable(list_of(INTEGER, 3)),
    "tvf_resize_params": nullable(list_of(OBJECT)),
}
_APPLIED = ("tvf_normalize_params", "tvf_letterbox_fill", "tvf_resize_params")


def read_actions(config: Mapping[str, Any], where: str) -> ActionTokenizer:
    """The bins of config.json; 256, and 64 rows of padding, where it does not say."""
    kinds = {"text_config": OBJECT, "pad_to_multiple_of": INTEGER, "n_action_bins": INTEGER}
    fields = some_fields(config, kinds, where, {"n_action_bins": 256, "pad_to_multiple_of": 64})
    rows = _of_text(fields["text_config"], {"vocab_size": LLAMA_VOCAB}, where)["vocab_size"]
    return ActionTokenizer(rows - fields["pad_to_multiple_of"], fields["n_action_bins"])


def read_prompt(config: Mapping[str, Any], where: str) -> Prompt:
    """The prompt that the published code builds for the language model; the plain one for an unknown one."""
    family = FAMILIES.get(some_fields(config, {"llm_backbone_id": TEXT}, where)["llm_backbone_id"])
    return Prompt(PROMPTS[family.chat if family else "openvla"])


def read_images(config: Mapping[str, Any], directory: Path, where: str) -> ImageTransform:
    """From preprocessor_config.json; where that is absent, from the encoders that config.json names."""
    path = directory / "preprocessor_config.json"
    if path.is_file():
        return _images_of_processor(read_json(path, CheckpointError, RESTORE), str(path))
    kinds = {"timm_model_ids": list_of(TEXT), "image_sizes": list_of(INTEGER), "image_resize_strategy": TEXT}
    fields = some_fields(config, kinds, where)
    return images_of(fields["timm_model_ids"], fields["image_sizes"], fields["image_resize_strategy"], where)


def images_of(timm_ids: Sequence[str], sizes: Sequence[int], strategy: str, where: str) -> ImageTransform:
    """The transform of a native run, with the published normalisation of each encoder's family.

    Raises CheckpointError for a family that is not known.
    """
    constants = [NORMALIZATION[_family(name, where)] for name in timm_ids]
    return ImageTransform(
        strategy,
        tuple(sizes),
        means=tuple(mean for mean, _ in constants),
        stds=tuple(std for _, std in constants),
        fill_per_encoder=strategy == "letterbox",
        short_side=SHORT_SIDES.get(timm_ids[0]) if timm_ids and strategy != "resize-naive" else None,
    )


def read_tokenizer(directory: Path) -> Tokenizer | None:
    """tokenizer.json of the directory, or None where there is none."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path} is not a tokenizer ({error}); restore the original file") from error


def read_statistics(config: Mapping[str, Any], directory: Path, where: str) -> dict[str, DatasetStatistics]:
    """dataset_statistics.json, which fine-tuning writes, or else norm_stats of config.json; empty where neither is."""
    path = directory / "dataset_statistics.json"
    if path.is_file():
        return load_statistics(path)
    kinds = {"norm_stats": nullable(OBJECT)}
    table: dict[str, Any] = some_fields(config, kinds, where, {"norm_stats": None})["norm_stats"] or {}
    return {key: DatasetStatistics.from_dict(entry, f"{where}, norm_stats {key!r},") for key, entry in table.items()}


def read_special_tokens(config: Mapping[str, Any], where: str) -> dict[str, int]:
    """bos_token_id, eos_token_id and pad_token_id.

    Where config.json does not say: the ends of the language model, or Llama's for an unknown one, and for padding the
    first id that the tokenizer does not use.
    """
    kinds = {"text_config": OBJECT, "pad_token_id": nullable(INTEGER), "llm_backbone_id": nullable(TEXT)}
    fields = some_fields(config, kinds, where, {"pad_token_id": None, "llm_backbone_id": None})
    pad = read_actions(config, where).vocab_size if fields["pad_token_id"] is None else fields["pad_token_id"]
    family = FAMILIES.get(fields["llm_backbone_id"], FAMILIES["llama2-7b-pure"])
    ends = _of_text(fields["text_config"], {"bos_token_id": family.bos, "eos_token_id": family.eos}, where)
    return ends | {"pad_token_id": pad}


def suffix_token(config: Mapping[str, Any], tokenizer: Tokenizer | None, vocab_size: int) -> int | None:
    """The id of a lone space, None where the language model has none.

    The tokenizer's; without one the language model's, where the vocabulary holds it.
    """
    family = FAMILIES.get(config.get("llm_backbone_id", ""))
    suffix = family.suffix if family else LLAMA_SUFFIX_TOKEN
    if suffix is None or tokenizer is None:
        return suffix if suffix is not None and vocab_size > suffix else None
    return tokenizer.token_to_id("▁")


def _of_text(text: Mapping[str, Any], defaults: Mapping[str, int], where: str) -> dict[str, int]:
    """The integers of text_config named in `defaults`, which hold for those absent or null."""
    given = {name: value for name, value in text.items() if value is not None}
    return some_fields(given, dict.fromkeys(defaults, INTEGER), f"{where}, text_config", defaults)


def _images_of_processor(document: object, where: str) -> ImageTransform:
    fields = some_fields(document, _PROCESSOR, where, dict.fromkeys(_APPLIED))
    if fields["tvf_normalize_params"] is None:
        means, stds = fields["means"], fields["stds"]
    else:
        place, kinds = f"{where}, tvf_normalize_params", {"mean": _TRIPLE, "std": _TRIPLE}
        applied = [some_fields(entry, kinds, place) for entry in fields["tvf_normalize_params"]]
        means, stds = [entry["mean"] for entry in applied], [entry["std"] for entry in applied]
    fill, sizes = fields["tvf_letterbox_fill"], tuple(size[-1] for size in fields["input_sizes"])
    return ImageTransform(
        strategy=fields["image_resize_strategy"],
        sizes=sizes,
        means=tuple(map(tuple, means)),
        stds=tuple(map(tuple, stds)),
        fill=None if fill is None else tuple(fill),
        short_side=_short_side(fields["tvf_resize_params"] or [], sizes),
    )


def _short_side(resizes: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> int | None:
    """What the short side is resized to, where that is one number and not the size itself."""
    given = [resize.get("size") for resize in resizes[:1]]
    return next((side for side in given if INTEGER.holds(side) and side not in sizes), None)


def _family(timm_id: str, where: str) -> str:
    for family in NORMALIZATION:
        if family in timm_id:
            return family
    raise CheckpointError(
        f"{where}: the vision encoder {timm_id!r} is of no known family ({', '.join(NORMALIZATION)}); "
        "add preprocessor_config.json, which holds its normalisation"
    )

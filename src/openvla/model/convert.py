"""A checkpoint from one format into another, or with an adapter merged, as a stream: no tensor outlives its copy.

What passes through keeps its bytes and its type, whatever the names and the order around it, and every tensor is
written, those included that no forward pass uses: the published classes load strictly. Small files of the source are
copied; those that the published classes need and the source lacks are written from its codec.

The function is kept, not only the weights: the epsilon and the normalisation constants in force are written out. The
published native code reads neither, and applies the language model's own epsilon.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from openvla.codec.codec import Codec
from openvla.codec.fields import read_object
from openvla.codec.tokenizer import tokenizer_text
from openvla.errors import CheckpointError, UsageError, lookup
from openvla.files import new_directory
from openvla.model.adapters import Adapter, merge_adapter, read_adapter
from openvla.model.backbones import LANGUAGE_MODELS
from openvla.model.checkpoint import load_model
from openvla.model.documents import AUTO_MAP, PROCESSOR, STATISTICS, TOKENIZER_FILES, documents_of, statistics_of
from openvla.model.fingerprint import FINGERPRINT
from openvla.model.lazy import LazyTensor, cast, nbytes
from openvla.model.locate import CONFIG, RUN_WEIGHTS
from openvla.model.merge_check import check_merge
from openvla.model.native import LATEST, native_tree, write_native_config
from openvla.model.shards import SHARD_BYTES, write_weights
from openvla.model.source import CODEC, HF, PRISMATIC, Source, common_dtype, open_source
from openvla.model.torch_file import write_torch

DTYPES = {"keep": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".index.json")
_MAX_COMPANION_BYTES = 100_000_000
_SLACK_BYTES = 64 << 20


@dataclass(frozen=True)
class Conversion:
    """What was written: how many tensors and bytes of weights, and what the reader should know."""

    directory: Path
    format: str
    tensors: int
    size_bytes: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def convert(
    source: str | Path,
    target: Path,
    format: str,  # noqa: A002
    *,
    adapter: Path | None = None,
    dtype: str = "keep",
    rms_norm_eps: float | None = None,
    vision_weights: Sequence[Path] = (),
    tokenizer: Path | None = None,
    revision: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    force: bool = False,
    verify: bool = True,
) -> Conversion:
    """Write the checkpoint `source` to the new directory `target`, whole or not at all.

    format: "hf" or "prismatic". adapter: a peft directory to merge. dtype: a key of `DTYPES`.
    rms_norm_eps: for the written config.json; None keeps the one in force.
    vision_weights: as in `load_checkpoint`. tokenizer: a directory whose tokenizer files to use.
    force: merge an adapter even where a guard objects.
    verify: compare the merged model's logits with those of base and adapter, where memory holds both.
    Raises CheckpointError for a source that cannot be read or a target that cannot be written, UsageError for settings.
    """
    writer = lookup(format, {HF: _write_hf, PRISMATIC: _write_native}, "format")
    wanted = lookup(dtype, DTYPES, "dtype")
    if rms_norm_eps is not None and not rms_norm_eps > 0:
        raise UsageError(f"rms_norm_eps is {rms_norm_eps}; give a number above 0, such as 1e-6")
    if target.exists():
        raise CheckpointError(f"{target} exists already; remove it, or choose another directory")
    opened = open_source(source, revision=revision, vision_weights=vision_weights)
    lora = None if adapter is None else read_adapter(adapter)
    base, opened = opened, opened if lora is None else merge_adapter(opened, lora, force=force)
    tensors = {name: cast(tensor, wanted or tensor.dtype) for name, tensor in opened.tensors.items()}
    size = sum(map(nbytes, tensors.values()))
    _check_room(target, size)
    with new_directory(target, CheckpointError) as place:
        codec = _copy_companions(opened, tokenizer, place)
        config = _config(opened, codec, tensors, rms_norm_eps)
        _complete(opened, codec, config, place, format)
        writer(place, tensors, opened, config, shard_bytes)
        notes = _notes(opened, codec, config, format)
        if lora is not None:
            notes.append(_verify(base, lora, place, size) if verify else "the merged logits were not compared")
    return Conversion(target, format, len(tensors), size, tuple(notes))


def _check_room(target: Path, size: int) -> None:
    """Raise CheckpointError where the disk has no room for the weights."""
    parent = next(path for path in (target.absolute().parent, *target.absolute().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if free < size + _SLACK_BYTES:
        raise CheckpointError(
            f"cannot write {target}: the disk has {free / 1e9:.1f} GB free and the weights take {size / 1e9:.1f} GB; "
            "free some space, or choose another disk"
        )


def _copy_companions(opened: Source, tokenizer: Path | None, place: Path) -> Codec:
    """Copy the source's small files, and the tokenizer's over them; returns the codec that they make."""
    for path in sorted(opened.directory.iterdir()):
        skipped = (
            path.name in (CONFIG, FINGERPRINT) or path.name.startswith(".") or path.name.endswith(_WEIGHT_SUFFIXES)
        )
        if not skipped and path.is_file() and path.stat().st_size <= _MAX_COMPANION_BYTES:
            shutil.copyfile(path, place / path.name)
    if tokenizer is not None:
        found = [tokenizer / name for name in TOKENIZER_FILES if (tokenizer / name).is_file()]
        if not found:
            raise CheckpointError(f"{tokenizer} holds no tokenizer files; give a directory with tokenizer.json")
        for path in found:
            shutil.copyfile(path, place / path.name)
    if (place / CODEC).is_file():
        return Codec.load(place)
    return Codec.from_published(opened.config, place)


def _published(opened: Source) -> bool:
    """Whether the source carries the published documents already, so that they only pass through."""
    return (opened.directory / PROCESSOR).is_file() and not (opened.directory / CODEC).is_file()


def _config(opened: Source, codec: Codec, tensors: Mapping[str, LazyTensor], eps: float | None) -> dict[str, Any]:
    """The published config.json of what is written."""
    config = dict(opened.config)
    if not _published(opened):
        config.setdefault("architectures", ["OpenVLAForActionPrediction"])
        config.setdefault("auto_map", AUTO_MAP)
        if codec.statistics:
            config["norm_stats"] = statistics_of(codec)
    if not _published(opened) or common_dtype(tensors) != common_dtype(opened.tensors):
        config["torch_dtype"] = str(common_dtype(tensors)).removeprefix("torch.")
    if eps is not None:
        config["text_config"] = dict(config["text_config"]) | {"rms_norm_eps": eps}
    return config


def _complete(
    opened: Source,
    codec: Codec,
    config: dict[str, Any],
    place: Path,
    format: str,  # noqa: A002
) -> None:
    """Write what the published classes want and `place` lacks."""
    documents = documents_of(codec, config)
    if _published(opened):
        documents = {name: documents[name] for name in (STATISTICS,) if format == PRISMATIC and name in documents}
    elif codec.tokenizer is not None:
        (place / "tokenizer.json").write_text(tokenizer_text(codec.tokenizer), encoding="utf-8")
    for name, content in documents.items():
        if not (place / name).exists():
            _write_json(place / name, content)


def _notes(opened: Source, codec: Codec, config: dict[str, Any], format: str) -> list[str]:  # noqa: A002
    """What the published classes will miss, or do otherwise."""
    notes: list[str] = []
    if codec.tokenizer is None:
        notes.append("no tokenizer: the source has none; give --tokenizer, or copy its files into the directory")
    if not codec.statistics:
        notes.append("no statistics: actions cannot be turned into robot units without dataset_statistics.json")
    own = LANGUAGE_MODELS.get(config.get("llm_backbone_id") or "")
    eps = opened.model.decoder.rms_norm_eps
    if format == PRISMATIC and own is not None and own.decoder.rms_norm_eps != eps:
        notes.append(
            f"rms_norm_eps {eps:g} is kept in config.json; the published native code does not read it and applies "
            f"{own.decoder.rms_norm_eps:g}"
        )
    return notes


def _verify(base: Source, adapter: Adapter, place: Path, size: int) -> str:
    """Compare logits where memory holds both models; returns what was found."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 3 * size > memory:
        return f"the merged logits were not compared: that takes about {3 * size / 1e9:.0f} GB of memory"
    wanted = common_dtype(open_source(place).tensors)
    before = load_model(base, wanted, fingerprinted=False)
    difference = check_merge(before, adapter, load_model(open_source(place), wanted))
    return f"merged and unmerged logits agree: they differ by {difference:.2g} of their spread"


def _write_hf(
    place: Path, tensors: Mapping[str, LazyTensor], opened: Source, config: dict[str, Any], shard_bytes: int
) -> None:
    original = opened.directory / CONFIG
    if opened.format == HF and config == read_object(original):
        shutil.copyfile(original, place / CONFIG)
    else:
        _write_json(place / CONFIG, config)
    write_weights(place, tensors, shard_bytes)


def _write_native(
    place: Path, tensors: Mapping[str, LazyTensor], opened: Source, config: dict[str, Any], shard_bytes: int
) -> None:
    del shard_bytes  # a native run has one file
    _write_json(place / CONFIG, write_native_config(config))
    (place / RUN_WEIGHTS).mkdir()
    tree = native_tree(tensors, config["timm_model_ids"], opened.model.decoder.tie_word_embeddings)
    write_torch(place / RUN_WEIGHTS / LATEST, tree)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

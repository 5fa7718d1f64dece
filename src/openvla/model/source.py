"""A checkpoint of any format, opened but not loaded: its sizes, and its tensors where they lie.

    hf          a Hugging Face directory, published or our own (codec.json beside it)
    prismatic   a native run: config.json and checkpoints/*.pt

Loading, conversion and the doctor all start here, so they agree on what a checkpoint is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from openvla.codec.codec import Codec
from openvla.codec.fields import read_object
from openvla.errors import CheckpointError
from openvla.model.lazy import LazyTensor
from openvla.model.locate import CONFIG, resolve
from openvla.model.names import TIED_HEAD
from openvla.model.native import add_vision, find_weights, is_native, read_native, read_native_config
from openvla.model.prismatic import ModelConfig, OpenVLA
from openvla.model.published import read_model_config
from openvla.model.weights import check_tensors, open_weights
from openvla.nn.meta import on_meta

CODEC = "codec.json"
HF, PRISMATIC = "hf", "prismatic"
EDGE, QUANTIZATION = "edge", "quantization"
"""Entries of a config.json beside which lie other weights than it describes: a part of them, or quantised ones."""


@dataclass(frozen=True)
class Source:
    """An opened checkpoint whose tensors fit its sizes.

    format: "hf" or "prismatic". directory: where its files are. config: as a published config.json says it.
    model: the sizes. tensors: by published name, in the model's order.
    """

    format: str
    directory: Path
    config: dict[str, Any]
    model: ModelConfig
    tensors: dict[str, LazyTensor]

    def read_codec(self) -> Codec:
        """The codec, from codec.json or from the published files. Raises CheckpointError, DataError."""
        if (self.directory / CODEC).is_file():
            return Codec.load(self.directory)
        return Codec.from_published(self.config, self.directory)


def open_source(
    source: str | Path, *, revision: str | None = None, vision_weights: Sequence[str | Path] = ()
) -> Source:
    """Find a checkpoint and check that its tensors are those of its config.json.

    source: a directory, a .pt file in a native run, a shipped name, or a hub id at `revision`.
    vision_weights: encoder weights for a native run that has none, one file per encoder.
    Raises CheckpointError, in one sentence, for everything that is absent, damaged or of another architecture.
    """
    directory, named = resolve(source, revision)
    path = directory / CONFIG
    raw = read_object(path)
    check_original(raw, directory)
    native = named is not None or is_native(directory)
    config = read_native_config(raw, str(path)) if native else raw
    model = read_model_config(config, str(path))
    expected = empty_model(model, path).state_dict()
    files = [Path(each) for each in vision_weights]
    if native:
        weights = find_weights(directory, named)
        tensors = add_vision(read_native(weights), model, config["timm_model_ids"], files, weights)
    elif files:
        raise CheckpointError(f"{directory} holds vision weights of its own; leave --vision-weights out")
    else:
        weights, tensors = directory, open_weights(directory)
    if model.decoder.tie_word_embeddings:
        tensors.pop(TIED_HEAD, None)
    check_tensors(tensors, expected, weights)
    ordered = {name: tensors[name] for name in expected}
    return Source(PRISMATIC if native else HF, directory, config, model, ordered)


def check_original(config: Mapping[str, Any], directory: Path) -> None:
    """Raise CheckpointError for a directory that was made of a checkpoint, and cannot be used in its place."""
    if EDGE in config:
        raise CheckpointError(
            f"{directory} is an edge part, which has no decoder and only encodes pictures beside a camera; give the "
            "checkpoint that it was made of"
        )
    if precision := stored_precision(config):
        raise CheckpointError(
            f"{directory} holds {precision} weights, which can act but not be trained, converted or examined; give the "
            "checkpoint that they were made of"
        )


def stored_precision(config: Mapping[str, Any]) -> str | None:
    """The precision of quantised weights that this config.json describes; None for a plain checkpoint."""
    entry = config.get(QUANTIZATION)
    return str(cast("dict[str, Any]", entry).get("precision")) if isinstance(entry, dict) else None


def empty_model(config: ModelConfig, path: Path) -> OpenVLA:
    """The model without values. Raises CheckpointError for sizes that no memory holds."""
    try:
        with on_meta():
            return OpenVLA(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: its sizes are beyond any memory ({str(error).splitlines()[0]}); restore the original file"
        ) from error


def common_dtype(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """The one type of the tensors, or, where there are several, the narrowest that holds all their values."""
    types = sorted({tensor.dtype for tensor in tensors.values()}, key=lambda dtype: (dtype.itemsize, str(dtype)))
    common = types[0]
    for dtype in types[1:]:
        common = torch.promote_types(common, dtype)
    return common


def dtypes_of(tensors: Mapping[str, LazyTensor]) -> str:
    """The types of the tensors in words, such as "bfloat16" or "bfloat16 and float32"."""
    return " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}))


SCAN_BYTES = 512 << 20
"""Weights up to this size are looked through in full at every load; of larger ones, the start of each tensor."""


def check_finite(tensors: Mapping[str, Tensor], where: Path, *, everything: bool = False) -> None:
    """Raise CheckpointError for the first tensor that holds NaN or infinity."""
    total = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1)
        if not everything and total > SCAN_BYTES:
            flat = flat[:4096]
        if not math.isfinite(float(flat.sum(dtype=torch.float64))):
            bad = int((~torch.isfinite(flat)).sum())
            raise CheckpointError(
                f"{where}: tensor {name!r} holds {bad} values that are not finite (NaN or infinity); the weights are "
                "damaged or their training diverged, restore them"
            )

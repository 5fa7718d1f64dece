"""LoRA adapters as peft writes them: read, merged tensor by tensor in float32, and kept from being merged twice.

    adapter_config.json            r, lora_alpha, alpha_pattern, use_rslora, ..., base_model_name_or_path
    adapter_model.safetensors      base_model.model.<module>.lora_A.weight (r, in), .lora_B.weight (out, r)
    base_weights.json              ours: {"sample": hash of the weights that the adapter was trained on}

The module names are the published ones, so adapters made for a published model fit. The merged weight is
W + scale * B A, the sum in float32, rounded once to the stored type.

Two things keep an adapter from being merged where it does not belong. Ours record the weights they were trained on (a
sample hash, see `fingerprint`), in a file of its own because peft refuses fields it does not know, and are merged into
no others. Every merge is recorded in config.json (`merged_adapters`), and is not repeated.
Source: Hu et al. 2021 (LoRA), section 4.1; Kalajdzievski 2023 for use_rslora; peft, "Checkpoint format".
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvla.codec.fields import NUMBER, OBJECT, TEXT, list_of, nullable, read_object, some_fields
from openvla.errors import CheckpointError
from openvla.model.fingerprint import full_hash, sample_hash
from openvla.model.lazy import LazyTensor, MadeTensor
from openvla.model.source import Source
from openvla.model.text_config import FLAG
from openvla.model.weights import read_tensors

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
BASE_WEIGHTS, MERGED = "base_weights.json", "merged_adapters"

_CONFIG = {
    "peft_type": TEXT,
    "lora_alpha": NUMBER,
    "alpha_pattern": nullable(OBJECT),
    "use_rslora": nullable(FLAG),
    "use_dora": nullable(FLAG),
    "fan_in_fan_out": nullable(FLAG),
}
_DEFAULTS: dict[str, Any] = {name: None for name in _CONFIG if name != "lora_alpha"} | {"peft_type": "LORA"}
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates by the name of the weight they belong to.

    updates: (A, B, scale), A (r, in) or (r, in, k, k) and B (out, r) or (out, r, 1, 1).
    identity: hash of all values. base_weights: sample hash of the base, or None where the adapter does not say.
    """

    directory: Path
    updates: dict[str, tuple[Tensor, Tensor, float]]
    identity: str
    base_weights: str | None


def read_adapter(directory: Path) -> Adapter:
    """Read a peft directory. Raises CheckpointError for what is no LoRA, is damaged, or cannot be merged."""
    path = directory / ADAPTER_CONFIG
    fields = some_fields(read_object(path), _CONFIG, str(path), _DEFAULTS)
    if fields["peft_type"] != "LORA" or fields["use_dora"] or fields["fan_in_fan_out"]:
        raise CheckpointError(
            f"{path}: peft_type {fields['peft_type']!r}, use_dora {fields['use_dora']}, fan_in_fan_out "
            f"{fields['fan_in_fan_out']}; only plain LoRA can be merged"
        )
    file = next((directory / name for name in ADAPTER_FILES if (directory / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{directory} has neither {' nor '.join(ADAPTER_FILES)}; its weights are missing")
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(file).items():
        found = _KEY.fullmatch(name)
        if found is None or not tensor.dtype.is_floating_point:
            raise CheckpointError(
                f"{file} holds {name!r} ({tensor.dtype}), which is no weight of a LoRA; merge it with peft"
            )
        pairs.setdefault(found[1], {})[found[2]] = tensor.mapped()
    updates = {f"{module}.weight": _update(module, pair, fields, file) for module, pair in pairs.items()}
    if not updates:
        raise CheckpointError(f"{file} holds no weights; restore the adapter")
    values = {f"{module}.{letter}": tensor for module, pair in pairs.items() for letter, tensor in pair.items()}
    return Adapter(directory, updates, full_hash(values), _recorded_base(directory))


def base_of(directory: Path) -> str:
    """The checkpoint that an adapter directory names as its base. Raises CheckpointError where it names none."""
    path = directory / ADAPTER_CONFIG
    kinds = {"base_model_name_or_path": nullable(TEXT)}
    name = some_fields(read_object(path), kinds, str(path), {"base_model_name_or_path": None})[
        "base_model_name_or_path"
    ]
    if not name:
        raise CheckpointError(
            f"{path} names no base_model_name_or_path; merge it: `openvla convert BASE DST --adapter {directory}`"
        )
    return name


def merge_adapter(base: Source, adapter: Adapter, *, force: bool = False) -> Source:
    """`base` with the adapter folded into its tensors as they are read, and recorded in its config.

    force: merge even where the guards object. Raises CheckpointError for an adapter of other weights, or merged before.
    """
    kinds = {MERGED: list_of(TEXT)}
    merged: list[str] = some_fields(base.config, kinds, f"{base.directory}, config.json", {MERGED: []})[MERGED]
    if not force:
        _guard(base, adapter, merged)
    tensors = dict(base.tensors)
    for name, update in adapter.updates.items():
        if name not in tensors:
            raise CheckpointError(
                f"{adapter.directory} adapts {name!r}, which {base.directory} does not have; it is another model's"
            )
        tensors[name] = _merged(name, tensors[name], update, adapter)
    return dataclasses.replace(base, tensors=tensors, config=base.config | {MERGED: [*merged, adapter.identity]})


def _recorded_base(directory: Path) -> str | None:
    path = directory / BASE_WEIGHTS
    return some_fields(read_object(path), {"sample": TEXT}, str(path))["sample"] if path.is_file() else None


def _guard(base: Source, adapter: Adapter, merged: list[str]) -> None:
    if adapter.identity in merged:
        raise CheckpointError(
            f"the adapter {adapter.directory} is merged into {base.directory} already; merging it again would apply it "
            "twice (--force does it nevertheless)"
        )
    if adapter.base_weights is None:
        return
    found = sample_hash({name: tensor.mapped() for name, tensor in base.tensors.items()})
    if adapter.base_weights != found:
        raise CheckpointError(
            f"the adapter {adapter.directory} was trained on other weights than those in {base.directory}, or is "
            f"merged into them already (the hash of its base is {adapter.base_weights[:12]}, theirs {found[:12]}); "
            "give the base it was trained on (--force merges nevertheless)"
        )


def _update(
    module: str, pair: Mapping[str, Tensor], fields: Mapping[str, Any], file: Path
) -> tuple[Tensor, Tensor, float]:
    if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1] or not pair["A"].shape[0]:
        shapes = {letter: list(tensor.shape) for letter, tensor in pair.items()}
        raise CheckpointError(
            f"{file}: the LoRA of {module!r} has the parts {shapes}, where A (r, in) and B (out, r) belong"
        )
    for letter, tensor in pair.items():
        if not math.isfinite(float(tensor.sum(dtype=torch.float64))):
            raise CheckpointError(
                f"{file}: lora_{letter} of {module!r} holds values that are not finite; restore the file"
            )
    alpha: Any = fields["lora_alpha"]
    for pattern, value in (fields["alpha_pattern"] or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module) and NUMBER.holds(value):
            alpha = value
            break
    rank = pair["A"].shape[0]
    return pair["A"], pair["B"], alpha / (math.sqrt(rank) if fields["use_rslora"] else rank)


def _merged(name: str, tensor: LazyTensor, update: tuple[Tensor, Tensor, float], adapter: Adapter) -> LazyTensor:
    first, second, scale = update
    if (second.shape[0], *first.shape[1:]) != tuple(tensor.shape) or second[0, 0].numel() != 1:
        raise CheckpointError(
            f"{adapter.directory} adapts {name!r} with B {list(second.shape)} and A {list(first.shape)}, but the "
            f"weight is {list(tensor.shape)}; it is another model's adapter"
        )

    def make() -> Tensor:
        delta = (second.float().flatten(1) @ first.float().flatten(1)).mul_(scale)
        return delta.view(tensor.shape).add_(tensor.mapped()).to(tensor.dtype)

    return MadeTensor(tensor.dtype, tensor.shape, make)

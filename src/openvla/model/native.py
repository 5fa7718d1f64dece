"""A Prismatic-native run: config.json and checkpoints/*.pt, under the names and in the words of a published export.

    config.json   {"vla": {"base_vlm": id, ...}} of an action run, {"model": {vision_backbone_id, ...}} of a
                  vision-language run
    .pt           {"model": {"vision_backbone", "llm_backbone", "projector"}}; vision-language runs leave out what they
                  did not train, so usually the vision weights

A native run differs from its Hugging Face export in more than names: its rms_norm_eps is that of the language model's
own configuration (1e-5 for Llama, where the export has 1e-6), its normalisation constants are exact, and the CLIP of
DinoCLIP has the exact GELU. Fields of a published config.json that stand at the top level of a native config.json win
over all of that: so small models, and runs converted from other formats, keep their sizes and their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openvla.codec.fields import INTEGER, OBJECT, TEXT, nullable, some_fields
from openvla.errors import CheckpointError, unknown
from openvla.model.encoders import read_encoder
from openvla.model.lazy import LazyTensor
from openvla.model.locate import RUN_WEIGHTS, download_encoder
from openvla.model.names import EMBEDDING, FIRST, SECOND, VISION, native_name, published_name
from openvla.model.presets import model_from_ids
from openvla.model.prismatic import ModelConfig
from openvla.model.published import write_config
from openvla.model.registry import VLAS, VLMS
from openvla.model.torch_file import flatten, read_torch

_SIZES = ("encoders", "image_sizes", "timm_model_ids", "pad_token_id", "pad_to_multiple_of")
"""Fields that a native config.json may take from a published one by themselves."""

LATEST = "latest-checkpoint.pt"
OWN_FIELDS = ("vla", "model")
"""What a native config.json has and a published one has not."""

_PARTS = {"vision_backbone_id": TEXT, "llm_backbone_id": TEXT, "arch_specifier": TEXT, "image_resize_strategy": TEXT}


def is_native(directory: Path) -> bool:
    """Whether the directory is a native run: its weights are in a folder of their own, none beside config.json."""
    return (directory / RUN_WEIGHTS).is_dir() and not any(directory.glob("*.safetensors"))


def read_native_config(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A native config.json in the words of a published one. Raises CheckpointError for a run of unknown parts."""
    published = {name: value for name, value in raw.items() if name not in OWN_FIELDS}
    if "timm_model_ids" in raw and "text_config" in raw:
        return published
    parts = _parts(raw, where)
    config = write_config(model_from_ids(*parts[:4], images=parts[4], where=where))
    given = some_fields(raw, {"text_config": nullable(OBJECT)}, where, {"text_config": None})["text_config"] or {}
    text = config["text_config"] | given
    if INTEGER.holds(given.get("vocab_size")):
        config["pad_token_id"] = text["vocab_size"] - config["pad_to_multiple_of"]
    own = {name: published[name] for name in _SIZES if name in published}
    return config | own | {"text_config": text}


def write_native_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A native config.json for a published one: with the sections that the native code reads, and all it had."""
    names = {name: config.get(name) for name in _PARTS}
    bases = {run.base: run_id for run_id, run in VLAS.items()}
    rows = sorted((row for row, parts in VLMS.items() if _same(parts, names)), key=lambda row: row not in bases)
    sections: dict[str, Any] = {"vla": {"vla_id": bases.get(rows[0]), "base_vlm": rows[0]}} if rows else {}
    model_id = rows[0] if rows else None
    sections["model"] = {"model_id": model_id, **names, "llm_max_length": config.get("llm_max_length", 2048)}
    return sections | {name: value for name, value in config.items() if name not in OWN_FIELDS}


def find_weights(directory: Path, named: Path | None) -> Path:
    """The .pt file of a run: the one that was named, the only one, or the latest. Raises CheckpointError."""
    if named is not None:
        return named
    files = sorted((directory / RUN_WEIGHTS).glob("*.pt"))
    if len(files) == 1:
        return files[0]
    latest = directory / RUN_WEIGHTS / LATEST
    if latest in files:
        return latest
    if not files:
        raise CheckpointError(f"{directory / RUN_WEIGHTS} holds no .pt file; the weights are missing")
    raise CheckpointError(
        f"{directory / RUN_WEIGHTS} holds {len(files)} files ({', '.join(file.name for file in files)}) and none is "
        f"{LATEST}; give the path of the one to load"
    )


def read_native(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a .pt file under their published names; those that are absent are not made up."""
    tree = read_torch(path).get("model")
    if not isinstance(tree, dict) or not all(isinstance(part, dict) for part in tree.values()):
        raise CheckpointError(
            f"{path} has no 'model' with parts of tensors, so it is no checkpoint of a native run; give a .pt file "
            "from its folder 'checkpoints'"
        )
    tensors: dict[str, LazyTensor] = {}
    for native, tensor in flatten(tree).items():
        name = published_name(native)
        if name is None or name in tensors:
            raise CheckpointError(
                f"{path} holds the tensor {native!r}, which has no place in a Prismatic model; it is another model"
            )
        tensors[name] = tensor
    return tensors


def add_vision(
    tensors: dict[str, LazyTensor], model: ModelConfig, timm_ids: Sequence[str], files: Sequence[Path], where: Path
) -> dict[str, LazyTensor]:
    """`tensors` with those of the vision encoders, from `files` (one per encoder) or else from the hub.

    Nothing is added where the checkpoint has vision weights. Raises CheckpointError, naming what is needed.
    """
    present = any(name.startswith(VISION) for name in tensors)
    if present and files:
        raise CheckpointError(f"{where} holds vision weights of its own; leave --vision-weights out")
    if present:
        return tensors
    if files and len(files) != len(timm_ids):
        raise CheckpointError(
            f"{where} needs the weights of {len(timm_ids)} vision encoders ({', '.join(timm_ids)}), and "
            f"--vision-weights names {len(files)} file(s); give one for each, in that order"
        )
    places = list(files) or [download_encoder(name) for name in timm_ids]
    added = dict(tensors)
    for prefix, path, encoder in zip((FIRST, SECOND), places, model.encoders, strict=False):
        added.update({prefix + name: tensor for name, tensor in read_encoder(path, encoder).items()})
    return added


def native_tree(tensors: Mapping[str, LazyTensor], timm_ids: Sequence[str], tied: bool) -> dict[str, Any]:
    """What a .pt file of a native run holds, from tensors under their published names.

    tied: the output head is the embedding; native files name it twice.
    """
    parts: dict[str, dict[str, LazyTensor]] = {"vision_backbone": {}, "llm_backbone": {}, "projector": {}}
    for published, tensor in tensors.items():
        part, _, name = native_name(published, timm_ids).partition(".")
        parts[part][name] = tensor
    if tied:
        parts["llm_backbone"]["llm.lm_head.weight"] = tensors[EMBEDDING]
    return {"model": parts}


def _parts(raw: Mapping[str, Any], where: str) -> tuple[str, str, str, str, int]:
    """The ids of a run's parts and its images per example, from its own fields or from the registry."""
    tables = some_fields(raw, {"model": nullable(OBJECT), "vla": nullable(OBJECT)}, where, {"model": None, "vla": None})
    vla, model = tables["vla"], tables["model"]
    images = 1
    if vla is not None:
        sequence = {"image_sequence_len": INTEGER}
        images = some_fields(vla, sequence, f"{where}, vla", {"image_sequence_len": 1})["image_sequence_len"]
    if model is not None:
        vision, llm, arch, resize = some_fields(model, _PARTS, f"{where}, model").values()
        return vision, llm, arch, resize, images
    if vla is None:
        raise CheckpointError(
            f"{where} has neither 'vla' nor 'model', so it is no config.json of a native run; restore it"
        )
    base = some_fields(vla, {"base_vlm": TEXT}, f"{where}, vla")["base_vlm"]
    if base not in VLMS:
        raise CheckpointError(f"{where}: {unknown(base, VLMS, 'base_vlm')}")
    row = VLMS[base]
    return row.vision, row.llm, row.arch, row.resize, images


def _same(row: Any, names: Mapping[str, Any]) -> bool:
    return [row.vision, row.llm, row.arch, row.resize] == [names[name] for name in _PARTS]

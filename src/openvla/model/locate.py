"""Where a checkpoint is: a directory, a .pt file in a native run, a shipped name, or a hub id to download.

A hub id is OWNER/REPOSITORY, or OWNER/REPOSITORY/FOLDER of a repository that holds many checkpoints.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download

from openvla.errors import CheckpointError

CONFIG = "config.json"
SHIPPED = Path(__file__).resolve().parent.parent / "shipped"
RUN_WEIGHTS = "checkpoints"
"""The folder of a native run that holds its .pt files."""

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.py", f"{RUN_WEIGHTS}/*.pt"]

COLLECTIONS = ("TRI-ML/prismatic-vlms",)
"""Hub repositories that hold many checkpoints, each in a folder of its own."""

ENCODER_FILES: dict[str, tuple[str, str]] = {
    # timm id: hub repository and file
    "vit_large_patch14_reg4_dinov2.lvd142m": ("timm/vit_large_patch14_reg4_dinov2.lvd142m", "model.safetensors"),
    "vit_so400m_patch14_siglip_224": ("timm/ViT-SO400M-14-SigLIP", "open_clip_pytorch_model.bin"),
    "vit_so400m_patch14_siglip_384": ("timm/ViT-SO400M-14-SigLIP-384", "open_clip_pytorch_model.bin"),
    "vit_base_patch16_siglip_224": ("timm/ViT-B-16-SigLIP", "open_clip_pytorch_model.bin"),
    "vit_base_patch16_siglip_256": ("timm/ViT-B-16-SigLIP-256", "open_clip_pytorch_model.bin"),
    "vit_base_patch16_siglip_384": ("timm/ViT-B-16-SigLIP-384", "open_clip_pytorch_model.bin"),
    "vit_large_patch14_clip_224.openai": ("timm/vit_large_patch14_clip_224.openai", "open_clip_pytorch_model.bin"),
    "vit_large_patch14_clip_336.openai": ("timm/vit_large_patch14_clip_336.openai", "open_clip_pytorch_model.bin"),
    "vit_base_patch16_clip_224.openai": ("timm/vit_base_patch16_clip_224.openai", "open_clip_pytorch_model.bin"),
    "vit_large_patch16_224.augreg_in21k_ft_in1k": (
        "timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
        "model.safetensors",
    ),
}


def resolve(source: str | Path, revision: str | None = None) -> tuple[Path, Path | None]:
    """(directory with config.json, the .pt file named in it or None), downloading a hub id. Raises CheckpointError."""
    text, path = str(source), Path(source)
    shipped = SHIPPED / text
    named: Path | None = None
    if path.is_file() and path.suffix == ".pt":
        directory, named = path.resolve().parent.parent, path
    elif path.is_dir():
        directory = path
    elif re.fullmatch(r"[\w-]+", text) and shipped.is_dir():
        directory = shipped
    elif found := hub_id(text):
        directory = _download(text, *found, revision)
    else:
        names = ", ".join(sorted(entry.name for entry in SHIPPED.iterdir())) if SHIPPED.is_dir() else "none"
        raise CheckpointError(
            f"there is no checkpoint {text!r}: it is no directory, no shipped policy ({names}) and no hub id such as "
            f"'openvla/openvla-7b', or '{COLLECTIONS[0]}/siglip-224px+7b' for one of many"
        )
    if not (directory / CONFIG).is_file():
        raise CheckpointError(f"{directory} is not a checkpoint: {_way_out(directory)}")
    return directory, named


def _way_out(directory: Path) -> str:
    """What a directory without config.json is instead, and what to give."""
    if (directory / "final" / CONFIG).is_file():
        return f"it is a training run; give its result, {directory / 'final'}"
    if (directory / "progress.json").is_file():
        return f"it is a saved step of a training run; `openvla convert {directory} TARGET` makes it one"
    return f"it has no {CONFIG}; give the directory that holds it"


def hub_id(source: str) -> tuple[str, str] | None:
    """(repository, folder in it or "") where `source` has the form of a hub id, and there is no such path here.

    One of the `COLLECTIONS` is named with a folder, any other repository without.

    >>> hub_id("openvla/openvla-7b"), hub_id("TRI-ML/prismatic-vlms/siglip-224px+7b"), hub_id("runs/nano/final")
    (('openvla/openvla-7b', ''), ('TRI-ML/prismatic-vlms', 'siglip-224px+7b'), None)
    """
    found = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?:/([\w+.-]+))?", source)
    if found is None or Path(source).exists() or bool(found[2]) != (found[1] in COLLECTIONS):
        return None
    return found[1], found[2] or ""


def download_encoder(timm_id: str) -> Path:
    """The hub's weights of a timm encoder. Raises CheckpointError, saying how to give them by hand."""
    try:
        return Path(hf_hub_download(*ENCODER_FILES[timm_id]))
    except Exception as error:  # the hub client raises types of several libraries
        raise CheckpointError(
            f"the checkpoint holds no vision weights: it needs those of timm's {timm_id!r}, and the hub "
            f"({'/'.join(ENCODER_FILES.get(timm_id, ('does not list it', '')))}) does not give them "
            f"({_reason(error)}); download them and give the file with --vision-weights, one per encoder in order"
        ) from error


def _download(name: str, repository: str, folder: str, revision: str | None) -> Path:
    wanted = [f"{folder}/{file}" if folder else file for file in _HUB_FILES]
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted), folder)
    except Exception as error:  # the hub client raises types of several libraries
        raise CheckpointError(
            f"there is no directory {name!r}, and no checkpoint of that name comes from the hub "
            f"({_reason(error)}); check the name and the connection"
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

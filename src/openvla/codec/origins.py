"""Which file each setting of a checkpoint comes from: what a user needs to know before changing one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

_EPSILONS = ("rms_norm_eps", "layer_norm_eps")


def origins(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Setting -> file, and the field in it where that is not obvious. `config` is in published words."""

    def first(*names: str) -> str | None:
        return next((name for name in names if (directory / name).is_file()), None)

    codec = first("codec.json")
    tokenizer = first("tokenizer.json") or "no file"
    return {
        "rms_norm_eps": _epsilon(directory, config),
        "prompt": codec or "config.json, llm_backbone_id",
        "images": codec or first("preprocessor_config.json") or "config.json, timm_model_ids (exact constants)",
        "codec": codec or "config.json",
        "statistics": first("dataset_statistics.json") or "config.json, norm_stats",
        "suffix_token": codec or (tokenizer if tokenizer != "no file" else "config.json, llm_backbone_id"),
        "tokenizer": tokenizer,
    }


def _epsilon(directory: Path, config: Mapping[str, Any]) -> str:
    """config.json where it says; else the default that a published class, or a native run, has."""
    text = cast("Mapping[str, Any]", config.get("text_config") or {})
    if any(text.get(name) is not None for name in _EPSILONS):
        return "config.json, text_config"
    if (directory / "checkpoints").is_dir():
        return "the language model that config.json names, as native runs have it"
    return "the default of the published configuration class, since config.json does not say"

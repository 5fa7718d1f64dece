"""The sizes of a checkpoint, without its weights: of a hub id, only config.json is downloaded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download

from openvla.codec.fields import read_object
from openvla.errors import CheckpointError
from openvla.model.locate import CONFIG, SHIPPED, hub_id, resolve
from openvla.model.native import OWN_FIELDS, read_native_config
from openvla.model.prismatic import ModelConfig
from openvla.model.published import read_model_config


def read_architecture(source: str | Path) -> ModelConfig:
    """The sizes of a Hugging Face or Prismatic-native checkpoint: a directory, a shipped name, or a hub id.

    Raises CheckpointError for what is no checkpoint, and for sizes that make no model.
    """
    path = _config_file(str(source))
    raw = read_object(path)
    config = read_native_config(raw, str(path)) if any(name in raw for name in OWN_FIELDS) else raw
    return read_model_config(config, str(path))


def _config_file(source: str) -> Path:
    """config.json of the checkpoint."""
    found = hub_id(source)
    if found is None or (SHIPPED / source).is_dir():
        return resolve(source)[0] / CONFIG
    repository, folder = found
    try:
        return Path(hf_hub_download(repository, f"{folder}/{CONFIG}" if folder else CONFIG))
    except Exception as error:  # the hub client raises types of several libraries
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"there is no directory {source!r}, and no {CONFIG} of that name comes from the hub "
            f"({reason[0] if reason else type(error).__name__}); check the name and the connection"
        ) from error

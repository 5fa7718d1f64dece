from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from openvla.codec.actions import ActionTokenizer
from openvla.codec.codec import Codec
from openvla.codec.images import ImageTransform
from openvla.codec.statistics import DatasetStatistics
from openvla.model.checkpoint import Checkpoint, new_checkpoint, save_checkpoint
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA
from openvla.model.published import read_model_config


@pytest.fixture
def checkpoint(golden: Path) -> Checkpoint:
    """An untrained `micro` with a codec that has statistics, but no tokenizer."""
    table = json.loads((golden / "micro" / "config.json").read_text())["norm_stats"]
    codec = Codec(
        actions=ActionTokenizer(1536),
        images=ImageTransform("resize-naive", (28, 28), ((0.5,) * 3,) * 2, ((0.5,) * 3,) * 2),
        statistics={key: DatasetStatistics.from_dict(entry) for key, entry in table.items()},
        suffix_token_id=None,
        pad_token_id=1536,
    )
    return new_checkpoint(PRESETS["micro"], codec, seed=0)


@pytest.fixture
def published(golden: Path, tmp_path: Path) -> Callable[..., Path]:
    """A directory in the format of the small published checkpoint, of other sizes, with random weights."""

    def make(changes: dict[str, Any] | None = None, **text: Any) -> Path:
        config = json.loads((golden / "micro" / "config.json").read_text()) | (changes or {})
        config["text_config"] = config["text_config"] | text
        directory = tmp_path / "published"
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        model = OpenVLA(read_model_config(config, "config.json"))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        save_file(model.state_dict(), directory / "model.safetensors")
        return directory

    return make


@pytest.fixture
def saved(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "saved", checkpoint)
    return tmp_path / "saved"

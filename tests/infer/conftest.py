from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from openvla.codec.actions import ActionTokenizer
from openvla.codec.codec import Codec
from openvla.codec.images import ImageTransform
from openvla.codec.statistics import DatasetStatistics
from openvla.codec.tokenizer import train_tokenizer
from openvla.model.checkpoint import Checkpoint, new_checkpoint
from openvla.model.presets import PRESETS
from openvla.spec import Observation

INSTRUCTIONS = ("go", "open the drawer", "put the red cube into the left bowl, then close it")


@pytest.fixture(scope="session")
def checkpoint(golden: Path) -> Checkpoint:
    """A `micro` of random weights that acts: three actions of seven values at a time."""
    entry = json.loads((golden / "micro" / "config.json").read_text())["norm_stats"]["toy"]
    tokenizer = train_tokenizer(INSTRUCTIONS, 1536)
    codec = Codec(
        actions=ActionTokenizer(1536),
        images=ImageTransform("resize-naive", (28, 28), ((0.5,) * 3,) * 2, ((0.5,) * 3,) * 2),
        tokenizer=tokenizer,
        statistics={"toy": DatasetStatistics.from_dict(entry)},
        chunk=3,
        suffix_token_id=tokenizer.token_to_id("▁"),
        pad_token_id=1536,
    )
    checkpoint = new_checkpoint(PRESETS["micro"], codec, seed=0)
    torch.manual_seed(0)
    for parameter in checkpoint.model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return checkpoint


@pytest.fixture(scope="session")
def observations() -> list[Observation]:
    """Three cameras of different sizes, three prompts of different lengths."""
    random = np.random.default_rng(0)
    return [
        Observation(random.integers(0, 256, (20 + 9 * number, 31, 3), np.uint8), instruction)
        for number, instruction in enumerate(INSTRUCTIONS)
    ]

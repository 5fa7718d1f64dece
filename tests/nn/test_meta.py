from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from openvla.nn.meta import on_meta


def test_modules_have_shapes_and_no_memory() -> None:
    with on_meta():
        layer = nn.Linear(3, 5)
        table = nn.Embedding(7, 2)
    assert layer.weight.is_meta
    assert (layer.weight.shape, table.weight.shape) == ((5, 3), (7, 2))


def test_modules_are_initialised_as_ever_afterwards() -> None:
    with on_meta():
        pass
    torch.manual_seed(0)
    assert nn.Linear(3, 5).weight.abs().sum() > 0


def test_no_compiler_is_imported() -> None:
    code = (
        "import sys\nfrom openvla.train.census import census\nfrom openvla.model.presets import PRESETS\n"
        "census(PRESETS['openvla-7b'].model, 'lora', 32)\nprint('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"

from __future__ import annotations

import pytest
import torch

from openvla.errors import UsageError
from openvla.infer import memory
from openvla.infer.loading import random_packed
from openvla.infer.memory import check_fits, free_bytes, weight_bytes
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA
from openvla.nn.quantized import Int4Linear, Int8Linear

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def large() -> OpenVLA:
    with torch.device("meta"):
        return OpenVLA(PRESETS["openvla-7b"].model)


def test_the_sizes_of_the_published_model_are_known(large: OpenVLA) -> None:
    assert weight_bytes(large, torch.bfloat16, None) == pytest.approx(15.08e9, rel=0.01)
    assert weight_bytes(large, torch.bfloat16, Int8Linear) == pytest.approx(8.61e9, rel=0.01)
    assert weight_bytes(large, torch.bfloat16, Int4Linear) == pytest.approx(5.77e9, rel=0.01)


def test_what_does_not_fit_is_refused_with_the_numbers(large: OpenVLA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10e9)
    with pytest.raises(UsageError, match=r"needs 15.6 GB .* and 10.0 GB are free; take quantize='int8' \(9.1 GB\)"):
        check_fits(large, CPU, torch.bfloat16, None)
    assert check_fits(large, CPU, torch.bfloat16, Int4Linear) is None
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2e9)
    with pytest.raises(UsageError, match=r"2.0 GB are free; take a smaller checkpoint or a machine with more memory"):
        random_packed(PRESETS["openvla-7b"], CPU, torch.bfloat16, "int4")


def test_the_system_says_what_is_free() -> None:
    assert free_bytes(CPU) > 2**20

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openvla.model.projector import PROJECTORS, ProjectorName

NAMES: dict[ProjectorName, set[str]] = {
    "linear": {"weight", "bias"},
    "gelu-mlp": {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"},
    "fused-gelu-mlp": {f"fc{n}.{kind}" for n in (1, 2, 3) for kind in ("weight", "bias")},
}


@pytest.mark.parametrize("name", PROJECTORS)
def test_tensors_have_their_published_names(name: ProjectorName) -> None:
    assert set(PROJECTORS[name](6, 10).state_dict()) == NAMES[name]


@pytest.mark.parametrize("name", PROJECTORS)
def test_layers_alternate_with_the_exact_gelu(name: ProjectorName) -> None:
    torch.manual_seed(0)
    projector = PROJECTORS[name](6, 10)
    x = features = torch.randn(2, 5, 6)
    weights = list(projector.parameters())
    for number, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        x = F.linear(F.gelu(x) if number else x, weight, bias)
    torch.testing.assert_close(projector(features), x)


def test_the_fused_one_is_four_times_as_wide_inside_as_the_features() -> None:
    assert PROJECTORS["fused-gelu-mlp"](6, 10).state_dict()["fc1.weight"].shape == (24, 6)
    assert PROJECTORS["gelu-mlp"](6, 10).state_dict()["fc1.weight"].shape == (10, 6)

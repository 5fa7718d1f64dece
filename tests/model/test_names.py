from __future__ import annotations

import pytest
import torch

from openvla.model.names import native_name, published_name
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA


@pytest.mark.parametrize(
    "preset", ["openvla-7b", "openvla-v01-7b", "dinov2-224px+7b", "clip-224px+7b", "prism-dinosiglip+13b"]
)
def test_native_names_come_back(preset: str) -> None:
    row = PRESETS[preset]
    with torch.device("meta"):
        names = list(OpenVLA(row.model).state_dict())
    natives = [native_name(name, row.timm_ids) for name in names]
    assert [published_name(native) for native in natives] == names
    assert len(set(natives)) == len(names)
    assert not any("scale_factor" in native for native in natives)


@pytest.mark.parametrize(
    ("published", "timm_ids", "native"),
    [
        ("projector.fc1.weight", ["x"], "projector.projector.0.weight"),
        ("projector.weight", ["x"], "projector.projector.weight"),
        ("language_model.lm_head.weight", ["x"], "llm_backbone.llm.lm_head.weight"),
        ("vision_backbone.featurizer.blocks.3.ls2.scale_factor", ["dinov2"],
         "vision_backbone.featurizer.blocks.3.ls2.gamma"),
        ("vision_backbone.featurizer.norm.bias", ["dinov2", "vit_so400m_patch14_siglip_224"],
         "vision_backbone.dino_featurizer.norm.bias"),
        ("vision_backbone.fused_featurizer.norm.bias", ["dinov2", "vit_so400m_patch14_siglip_224"],
         "vision_backbone.siglip_featurizer.norm.bias"),
        ("vision_backbone.fused_featurizer.norm.bias", ["dinov2", "vit_large_patch14_clip_336.openai"],
         "vision_backbone.clip_featurizer.norm.bias"),
    ],
)  # fmt: skip
def test_a_name_in_both_tables(published: str, timm_ids: list[str], native: str) -> None:
    assert native_name(published, timm_ids) == native
    assert published_name(native) == published


def test_a_name_of_another_model_has_none() -> None:
    assert published_name("action_head.fc1.weight") is None
    assert published_name("llm_backbone.tokenizer") is None

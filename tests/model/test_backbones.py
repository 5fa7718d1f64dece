from __future__ import annotations

import pytest
import torch

from openvla.codec.families import FAMILIES
from openvla.codec.prompt import PROMPTS
from openvla.model.backbones import CLIP_L_336, DINOV2_L, ENCODERS, LANGUAGE_MODELS, SIGLIP_SO400M, VISION_BACKBONES
from openvla.nn.vit import VisionTransformer
from openvla.train.methods import count_parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (DINOV2_L, 303_230_976),
        (SIGLIP_SO400M, 427_680_704),
        ("vit_so400m_patch14_siglip_384", 428_225_600),
        ("vit_base_patch16_siglip_224", 92_884_224),
        ("vit_base_patch16_siglip_256", 92_930_304),
        ("vit_base_patch16_siglip_384", 93_176_064),
        ("vit_large_patch14_clip_224.openai", 303_179_776),
        (CLIP_L_336, 303_507_456),
        ("vit_base_patch16_clip_224.openai", 85_799_424),
        ("vit_large_patch16_224.augreg_in21k_ft_in1k", 303_301_632),
    ],
)
def test_an_encoder_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert count_parameters(VisionTransformer(ENCODERS[name]))[0] == parameters


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", VISION_BACKBONES)
def test_the_encoders_of_a_backbone_make_equally_many_patches(name: str, native: bool) -> None:
    encoders = VISION_BACKBONES[name].encoders(native)
    assert len({encoder.num_patches for encoder in encoders}) == 1
    assert {encoder.image_size for encoder in encoders} == {VISION_BACKBONES[name].image_size}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_language_model_has_a_prompt_and_room_for_its_special_tokens(name: str) -> None:
    family, rows = FAMILIES[name], LANGUAGE_MODELS[name].decoder.vocab_size
    assert family.chat in PROMPTS
    assert rows % 64 == 0
    assert max(family.bos, family.eos, family.pad, family.suffix or 0) < rows

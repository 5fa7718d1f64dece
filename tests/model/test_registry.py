from __future__ import annotations

import pytest

from openvla.codec.images import STRATEGIES
from openvla.model.presets import PRESETS
from openvla.model.registry import VLAS, VLMS
from openvla.train.census import census
from openvla.train.methods import PARTS


def test_every_published_id_is_there() -> None:
    assert len(VLMS) == 52
    assert len(VLAS) == 17
    assert {*VLMS, *VLAS, "openvla-7b", "openvla-v01-7b"} <= set(PRESETS)


@pytest.mark.parametrize("name", VLMS)
def test_a_row_is_a_preset_with_its_source(name: str) -> None:
    row, preset = VLMS[name], PRESETS[name]
    assert (preset.vision_backbone, preset.llm_backbone, preset.resize) == (row.vision, row.llm, row.resize)
    assert row.resize in STRATEGIES
    assert preset.source == row.source
    assert "prismatic/conf/models.py" in row.source


@pytest.mark.parametrize("name", VLAS)
def test_a_run_starts_from_a_registered_model_and_trains_by_a_known_method(name: str) -> None:
    row, preset = VLAS[name], PRESETS[name]
    assert preset.arch_specifier == VLMS[row.base].arch
    assert preset.model.images == row.images
    assert row.method in PARTS
    assert ":" in row.source


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("siglip-384px-letterbox+7b", 7_188_669_504),
        ("reproduction-llava-v15+7b", 7_063_427_072),
        ("clip-224px+7b", 7_063_099_392),
        ("dinov2-224px+7b", 7_063_150_592),
        ("in1k-224px+7b", 7_063_221_248),
        ("prism-dinosiglip+7b", 7_542_266_432),
        ("dinoclip-336px-letterbox+7b", 7_413_131_264),
        ("llama2+13b", 13_351_494_656),
        ("prism-dinosiglip+13b", 13_838_198_336),
        ("prism-qwen25-extra-dinosiglip-224px+0_5b", 1_252_496_448),
    ],
)
def test_a_model_has_the_published_number_of_parameters(name: str, total: int) -> None:
    assert census(PRESETS[name].model, "full", 0).count() == total


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("mistral-v0.1+7b", 7_242_256_384),
        ("phi-2+3b", 2_775_095_424),
        ("llama2-chat+13b", 13_016_519_680),
        ("prism-qwen25-extra-dinosiglip-224px+0_5b", 494_032_768),
    ],
)
def test_a_language_model_has_the_published_number_of_parameters(name: str, language: int) -> None:
    assert census(PRESETS[name].model, "full", 0).count("language_model") == language

"""Every recipe without its hardware: names that resolve, settings that hold, memory that the named cards have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from openvla.data.registry.find import find_record
from openvla.data.registry.mixtures import mixture
from openvla.errors import UsageError
from openvla.model.locate import hub_id
from openvla.model.presets import PRESETS
from openvla.train.config import TrainConfig
from openvla.train.recipes import RECIPES
from openvla.train.setup import check
from openvla.train.stage import Stage, needs, summary

GIB = 2**30
STAGES = [
    pytest.param(stage, id=f"{name}-{number}")
    for name, recipe in RECIPES.items()
    for number, stage in enumerate(recipe(Path("data"), Path("runs")))
]
PLANNED = [param for param in STAGES if param.values[0].preset is not None]


@pytest.mark.parametrize("stage", STAGES)
def test_the_settings_hold_and_the_names_resolve(stage: Stage) -> None:
    config = stage.config
    check(config)
    if config.mixture is not None:
        assert mixture(config.mixture)
    else:
        assert find_record(config.dataset)
    start = config.checkpoint
    inside = Path(start).is_relative_to("runs")  # where the stage before ends
    assert inside or start.removeprefix("preset:") in PRESETS or hub_id(start)
    assert stage.preset is None or stage.preset in PRESETS


@pytest.mark.parametrize("stage", PLANNED)
def test_a_step_fits_the_cards_it_was_made_for(stage: Stage) -> None:
    plan = needs(stage)
    if stage.cards is None:
        assert plan["memory_bytes"]["peak"] < 4 * GIB
        assert "hours" not in plan
        return
    assert plan["memory_bytes"]["peak"] < 0.95 * stage.cards.memory_gb * GIB
    assert plan["largest_batch"] >= stage.config.batch_size // stage.cards.count
    assert plan["hours"] > 0


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_makes_on_what(name: str) -> None:
    recipe = RECIPES[name]
    assert 20 < len(summary(recipe)) < 110
    assert "Hardware:" in (recipe.__doc__ or "")


def test_pre_training_has_the_published_numbers() -> None:
    (stage,) = RECIPES["openvla-7b"](Path("d"), Path("o"))
    config = stage.config
    assert (config.batch_size, config.learning_rate, config.schedule, config.steps) == (2048, 2e-5, "constant", 295_000)
    assert (config.mixture, config.method, config.weight_decay) == ("oxe_magic_soup_plus_minus", "full", 0.0)
    assert config.checkpoint == "TRI-ML/prismatic-vlms/prism-dinosiglip-224px+7b"
    plan = needs(stage)
    assert plan["parameters"]["trainable"] == 7_541_237_184
    assert 200 < plan["hours"] < 336  # at 40 % of the cards' speed; 14 days were published
    assert RECIPES["openvla-v0.1"](Path("d"), Path("o"))[0].config.mixture == "oxe_magic_soup"


def test_the_ablations_differ_from_the_reference_in_what_they_ask() -> None:
    def config(name: str) -> TrainConfig:
        return RECIPES[name](Path("d"), Path("o"))[0].config

    reference = config("bridge-siglip-224")
    assert (reference.batch_size, reference.mixture, reference.method) == (256, "bridge", "full")
    assert dataclasses.replace(config("bridge-siglip-224-frozen"), method="full") == reference
    for name in ("bridge-siglip-384", "bridge-dinosiglip-224", "bridge-dinosiglip-384", "bridge-llava"):
        other = config(name)
        assert other.checkpoint != reference.checkpoint
        assert dataclasses.replace(other, checkpoint=reference.checkpoint) == reference


def test_384_pixels_take_as_much_more_work_as_said() -> None:
    work = [
        needs(RECIPES[f"bridge-siglip-{size}"](Path("d"), Path("o"))[0])["flops_per_example"] for size in (384, 224)
    ]
    assert work[0] / work[1] == pytest.approx(2.7, abs=0.05)


def test_lora_has_the_published_numbers() -> None:
    (stage,) = RECIPES["finetune-lora"](Path("d"), Path("o"))
    config = stage.config
    assert (config.rank, config.learning_rate, config.batch_size) == (32, 5e-4, 16)
    assert (config.weight_decay, config.augment) == (0.01, True)
    assert needs(stage)["parameters"]["trainable"] == 110_828_288
    assert 10 < needs(stage)["hours"] < 15


def test_full_fine_tuning_takes_the_hours_it_says() -> None:
    assert 5 < needs(RECIPES["finetune-full"](Path("d"), Path("o"))[0])["hours"] < 15


def test_a_batch_that_the_cards_cannot_share_is_one_sentence() -> None:
    (stage,) = RECIPES["finetune-full"](Path("d"), Path("o"))
    odd = dataclasses.replace(stage, config=dataclasses.replace(stage.config, batch_size=250))
    with pytest.raises(UsageError, match="the batch of 250 cannot be shared by 8 cards; make it a multiple"):
        needs(odd)


def test_a_stage_of_unknown_sizes_points_to_the_plan() -> None:
    (stage,) = RECIPES["finetune-full"](Path("d"), Path("o"))
    with pytest.raises(UsageError, match="the sizes of 'openvla/openvla-7b' are not known by name; use `openvla plan`"):
        needs(dataclasses.replace(stage, preset=None))

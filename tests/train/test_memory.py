from __future__ import annotations

import pytest

from openvla.errors import UsageError
from openvla.model.presets import PRESETS
from openvla.train.census import census
from openvla.train.memory import MARGIN, Load, Memory, step_memory

GIB = 2**30


def memory(preset: str = "openvla-7b", method: str = "full", **load: object) -> Memory:
    model = PRESETS[preset].model
    return step_memory(model, census(model, method, 32), method, 32, Load(**load))  # pyright: ignore[reportArgumentType]


def test_full_training_holds_four_numbers_per_weight_and_its_cast() -> None:
    found, total = memory(), 7_541_237_184
    runs = (
        total - 12_598_272 - 2_048 - 15_239_504 - 2_304 - 15_238_352
    )  # last blocks, norms and pooling of the encoders
    assert (found.weights, found.gradients, found.optimizer) == (4 * total, 4 * runs, 8 * runs)
    assert 0.96 * 2 * total < found.components(1)["casts"] < 2 * total
    assert memory(precision="fp32").components(1)["casts"] == 0


def test_lora_holds_the_model_in_two_bytes_and_qlora_the_decoder_in_about_half_of_one() -> None:
    assert memory(method="lora").weights == 2 * 7_541_237_184 + 4 * 110_828_288
    assert 5 * GIB < memory(method="qlora").weights < 6 * GIB  # the vision encoders stay in two bytes


def test_the_published_rows_are_in_reach() -> None:
    """A 7B model: LoRA at batch 16 under 60 GB, QLoRA at batch 1 under 16 GB; the whole model on no card of 80 GB."""
    assert 40e9 < memory(method="lora").components(16)["peak"] < 60e9
    assert memory(method="qlora").components(1)["peak"] < 16e9
    assert memory().largest_batch(80 * GIB) == 0


def test_the_peak_is_less_than_the_sum_and_more_than_what_always_stays() -> None:
    found = memory(method="sandwich").components(4)
    parts = sum(found.values()) - found["peak"]
    assert found["weights"] + found["optimizer"] < found["peak"] < parts


@pytest.mark.parametrize("method", ["lora", "sandwich", "last-layer"])
def test_the_largest_batch_fits_and_the_next_does_not(method: str) -> None:
    found, capacity = memory(method=method), 80 * GIB
    batch = found.largest_batch(capacity)
    assert batch > 0
    assert found.components(batch)["peak"] <= capacity < found.components(batch + 1)["peak"]
    assert found.largest_batch(found.weights) == 0


def test_devices_share_weights_gradients_and_moments() -> None:
    one, eight = memory(), memory(world_size=8)
    assert one.weights == 8 * eight.weights
    assert (one.gradients, one.optimizer) == (8 * eight.gradients, 8 * eight.optimizer)
    assert eight.components(1)["casts"] < 0.25 * one.components(1)["casts"]
    assert eight.activations_per_example == one.activations_per_example


def test_only_supervised_positions_have_logits() -> None:
    assert memory(supervised=8).logits_per_example == 4 * 8 * 32064
    assert memory(supervised=8).components(2)["logits"] == 2 * 4 * 4 * 8 * 32064


def test_the_margin_is_a_share_of_the_rest() -> None:
    found = memory(method="lora").components(2)
    assert found["margin"] == pytest.approx(found["peak"] * MARGIN / (1 + MARGIN), rel=1e-6)


def test_four_bit_weights_are_not_shared_out() -> None:
    assert memory(method="qlora", world_size=8).weights == memory(method="qlora").weights


def test_two_copies_of_four_devices_each_hold_a_quarter() -> None:
    found = memory(world_size=8, shard=4)
    assert found.weights == memory(world_size=4).weights == 2 * memory(world_size=8).weights


def test_micro_batches_need_the_activations_of_one_and_all_gradients_from_the_start() -> None:
    one, parts, small = (
        memory(**load).components(batch) for load, batch in (({}, 16), ({"batch": 16, "accumulate": 4}, 16), ({}, 4))
    )
    assert parts["activations"] == small["activations"] == one["activations"] / 4
    assert parts["peak"] > small["peak"]


def test_the_largest_batch_is_a_multiple_of_its_parts() -> None:
    found = memory(method="lora", batch=4, accumulate=4)
    batch = found.largest_batch(80 * GIB)
    assert batch % 4 == 0
    assert found.components(batch)["peak"] <= 80 * GIB < found.components(batch + 4)["peak"]


@pytest.mark.parametrize("name", ["batch", "text_tokens", "supervised", "world_size", "accumulate"])
def test_a_load_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 0; give a whole number from 1"):
        Load(**{name: 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch": 6, "accumulate": 4},
            "batch is 6, which 4 micro-batches cannot share evenly; make it a multiple of 4",
        ),
        ({"world_size": 8, "shard": 3}, "shard is 3, which does not divide the 8 devices; give a divisor, or 0"),
        ({"supervised": 33}, "supervised is 33 and text_tokens 32; labels are a part of the tokens"),
    ],
)
def test_a_load_that_cannot_be_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Load(**changes)

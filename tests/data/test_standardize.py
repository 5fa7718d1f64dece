from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openvla.data.episode import demonstration_episode
from openvla.data.registry.columns import take
from openvla.data.registry.find import DATASETS, find_record
from openvla.data.registry.record import DataRecord
from openvla.data.standardize import standardize
from openvla.errors import DataError, UsageError

GOLDEN = Path(__file__).parent.parent / "golden/oxe_transforms"
QUATERNION = (
    "furniture_bench_dataset_converted_externally_to_rlds",
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds",
    "cmu_playing_with_food",
)
FIELD = re.compile(r"`([^`]+)` 12(?:x(\d+(?:x\d+)*))? (\w+)")
OUTPUT = re.compile(r"`([^`]+)` (\d+)x(\d+) f32")


def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Raw steps, with compressed fields as a reader delivers them, and what the published code makes of them."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        sides = {
            side: {key.removeprefix(side): arrays[key] for key in arrays if key.startswith(side)}
            for side in ("in/", "in_decoded/", "out/")
        }
    return {**sides["in/"], **sides["in_decoded/"]}, sides["out/"]


@pytest.fixture
def bridge() -> dict[str, np.ndarray]:
    return load("bridge_orig")[0]


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.npz")))
def test_it_is_what_the_published_code_makes_of_it(name: str) -> None:
    steps, wanted = load(name)
    result: dict[str, Any] = dict(standardize(name, steps))
    made, record = find_record(name).transform(steps), find_record(name)
    depth = {str(part.part): take(steps, part) for part in record.depth.values() if not isinstance(part, str)}
    assert wanted
    for field, expected in wanted.items():
        got = result[field] if field in result else {**made, **depth}[field]
        if field == "language_instruction":
            assert got.tolist() == expected.tolist()
        else:
            tolerance = 1e-5 if name in QUATERNION else 0
            np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    assert (result["action"].dtype, result["proprio"].dtype) == (np.float32, np.float32)


def test_bridge_dataset_is_bridge_by_another_name(bridge: dict[str, np.ndarray]) -> None:
    wanted = load("bridge_orig")[1]
    np.testing.assert_array_equal(standardize("bridge_dataset", bridge)["action"], wanted["action"])


def published_shapes(shared: Path) -> dict[str, tuple[dict[str, np.ndarray], dict[str, tuple[int, int]]]]:
    """Random raw steps as the published data sets have them, and the shapes of what the published code makes."""
    random, table = np.random.default_rng(0), {}
    for line in (shared / "golden/oxe_transforms/README.md").read_text().splitlines():
        match = re.match(r"- \*\*(\w+)\*\* in: (.*?) out: (.*)", line)
        if match is None:
            continue
        steps = {}
        for key, shape, kind in FIELD.findall(match[2]):
            size = (12, *map(int, shape.split("x"))) if shape else (12,)
            steps[key.removeprefix("in_decoded/")] = {
                "str": lambda size=size: np.full(size, "do it"),
                "bool": lambda size=size: random.random(size) > 0.5,
                "f32": lambda size=size: random.normal(size=size).astype(np.float32),
            }.get(kind, lambda size=size: random.integers(0, 2, size))()
        outputs = {key: (int(rows), int(columns)) for key, rows, columns in OUTPUT.findall(match[3])}
        table[match[1]] = (steps, outputs)
    return table


def test_all_73_sets_have_the_published_shapes(shared: Path) -> None:
    table = published_shapes(shared)
    assert len(table) == 73
    for name, (steps, outputs) in table.items():
        result = standardize(name, steps)
        for field in ("action", "proprio"):
            assert field not in outputs or result[field].shape == outputs[field], name
        made = find_record(name).transform(steps)
        for field, shape in outputs.items():
            assert field in ("action", "proprio") or made[field].shape == shape, (name, field)


def test_double_precision_changes_nothing(shared: Path) -> None:
    for name, (steps, _) in published_shapes(shared).items():
        double = {key: values.astype(float) if values.dtype == np.float32 else values for key, values in steps.items()}
        for field in ("action", "proprio"):
            single = standardize(name, steps)[field]
            tolerance = 1e-5 if name in QUATERNION else 1e-6
            np.testing.assert_allclose(standardize(name, double)[field], single, rtol=0, atol=tolerance)


def test_the_gripper_of_the_fanuc_comes_from_its_state() -> None:
    state = np.arange(26, dtype=np.float32).reshape(2, 13)
    steps = {"action": np.ones((2, 6)), "observation|state": state, "language_instruction": np.array(["a", "b"])}
    result = standardize("berkeley_fanuc_manipulation", steps)
    assert result["action"][:, 6].tolist() == [1 - 6, 1 - 19]
    assert result["proprio"].tolist() == [[*state[row, :6], 0, state[row, 6]] for row in range(2)]


def test_code_points_end_at_the_first_zero() -> None:
    codes = np.zeros((3, 8), np.int32)
    codes[0, :3], codes[1, :4], codes[2, :2] = [*map(ord, "häß")], [ord("a"), 0, ord("b"), 0], [0x1F916, 0xD800]
    steps = {
        "action": np.ones((3, 2)),
        "observation|effector_translation": np.zeros((3, 2)),
        "observation|instruction": codes,
    }
    result = standardize("language_table", steps)
    assert result["language_instruction"].tolist() == ["häß", "a", "\U0001f916\ufffd"]
    assert result["action"][0].tolist() == [1, 1, 0, 0, 0, 0, 1]


def test_each_row_knows_its_raw_step(bridge: dict[str, np.ndarray]) -> None:
    assert standardize("bridge_orig", bridge)["step"].tolist() == list(range(1, 11))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_bridge_trajectory_too_short_to_move_is_empty(bridge: dict[str, np.ndarray], steps: int) -> None:
    result = standardize("bridge_orig", {name: array[:steps] for name, array in bridge.items()})
    assert (result["action"].shape, result["proprio"].shape) == ((0, 7), (0, 8))


def test_an_empty_trajectory_stays_empty(shared: Path) -> None:
    for name, (steps, _) in published_shapes(shared).items():
        result = standardize(name, {key: values[:0] for key, values in steps.items()})
        assert result["action"].shape == (0, find_record(name).action.dim), name


def test_metaworld_is_taken_as_recorded() -> None:
    actions, proprio = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    episode = demonstration_episode(frames, actions, proprio, "open it", task="door-open", seed=0)
    result = standardize("metaworld", episode.steps)
    np.testing.assert_array_equal(result["action"], actions)
    np.testing.assert_array_equal(result["proprio"], proprio)
    assert result["language_instruction"].tolist() == ["open it"] * 3
    assert result["step"].tolist() == [0, 1, 2]


def test_instructions_stored_as_bytes_become_text(bridge: dict[str, np.ndarray]) -> None:
    steps: dict[str, Any] = dict(bridge)
    steps["language_instruction"] = np.array(["stell es hin, bittschön".encode()] * 12, object)
    assert set(standardize("bridge_orig", steps)["language_instruction"]) == {"stell es hin, bittschön"}


def test_a_missing_instruction_is_refused(bridge: dict[str, np.ndarray]) -> None:
    steps = {key: values for key, values in bridge.items() if key != "language_instruction"}
    with pytest.raises(DataError, match="not of 'bridge_orig': they lack 'language_instruction'"):
        standardize("bridge_orig", steps)


@pytest.mark.parametrize("item", [0.5, 3, None])
def test_an_instruction_that_is_no_text_is_refused(bridge: dict[str, np.ndarray], item: object) -> None:
    steps = {**bridge, "language_instruction": np.array([item] * 12)}
    with pytest.raises(DataError, match=r"not of 'bridge_orig': an instruction is .*, which is no text; their shapes"):
        standardize("bridge_orig", steps)


def test_what_fails_in_a_record_of_ones_own_is_one_sentence() -> None:
    def failing(steps: Any) -> Any:
        raise ZeroDivisionError

    record = DataRecord(images={}, columns=(failing,), name="mine")
    with pytest.raises(DataError, match=r"not of 'mine': ZeroDivisionError; .*, or correct its record"):
        standardize(record, {"action": np.ones((2, 7))})


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown data set 'bridge_original'; did you mean 'bridge_orig'"):
        standardize("bridge_original", {})


def test_steps_of_another_data_set_are_refused(bridge: dict[str, np.ndarray]) -> None:
    steps = dict(bridge)
    with pytest.raises(DataError, match=r"not of 'metaworld': they lack 'observation\|proprio'; they have is_first"):
        standardize("metaworld", steps)
    steps["observation|proprio"] = np.zeros((12, 3))
    with pytest.raises(DataError, match=r"'metaworld' has 4 action dimensions, these steps have \(7,\)"):
        standardize("metaworld", steps)
    steps["observation|state"] = np.zeros(12)
    with pytest.raises(DataError, match=r"not of 'bridge_orig': .*; their shapes are"):
        standardize("bridge_orig", steps)
    steps["observation|state"] = np.zeros((11, 7))
    with pytest.raises(DataError, match=r"steps need one value of everything each; the lengths are .*'action': 12"):
        standardize("bridge_orig", steps)


def test_no_input_ends_in_a_foreign_error(shared: Path) -> None:
    random = np.random.default_rng(0)
    odd = [np.array(["x"] * 12), np.zeros(12), np.zeros((12, 1)), np.zeros((12, 2, 2)), np.array([None] * 12)]
    for name, (steps, _) in published_shapes(shared).items():
        for key in steps:
            broken = {**steps, key: odd[random.integers(len(odd))]}
            with contextlib.suppress(DataError):
                standardize(name, broken)


def test_every_record_describes_as_many_dimensions_as_it_masks() -> None:
    for record in DATASETS.values():
        assert len(record.mask) == len(record.absolute) == record.action.dim
        assert record.images

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from openvla.codec.batch import IGNORE_INDEX
from openvla.codec.codec import Codec
from openvla.codec.statistics import FieldStatistics, unnormalize
from openvla.spec import ActionSpec
from openvla.train.config import TrainConfig
from openvla.train.scores import Origin, Scorer, closed_side, physical_name
from openvla.train.setup import starting_point

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


def statistics(scale: float, **changes: object) -> FieldStatistics:
    """Four dimensions of different ranges, the last of which is left as it is."""
    q99 = scale * np.array([1.0, 2.0, 3.0, 4.0])
    values: dict[str, object] = {"mean": q99, "std": q99, "max": q99, "min": -q99, "q01": -q99, "q99": q99}
    return FieldStatistics(**values | {"mask": np.array([True, True, True, False])} | changes)


@pytest.fixture
def codec(config: Make) -> Codec:
    names, units = ("x", "y", "turn", "gripper"), ("m", "m", "rad/s", "1")
    spec = ActionSpec(names, units, np.full(4, -1.0), np.ones(4), 5.0, gripper="open_is_high")
    return dataclasses.replace(starting_point(config()).codec, chunk=2, action=spec)


@pytest.fixture
def sources() -> list[Origin]:
    return [Origin("left", statistics(1.0)), Origin("talk", None), Origin("right/hand", statistics(0.1))]


def made(codec: Codec, seed: int = 0, examples: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, sources and logits of robot frames (chunk of 2) and of text of any length, side by side."""
    random = np.random.default_rng(seed)
    source = random.integers(0, 3, examples)
    rows: list[list[int]] = []
    for origin in source:
        prompt = [IGNORE_INDEX] * int(random.integers(3, 6))
        action = codec.actions.encode(random.uniform(-1, 1, 8)).tolist()
        said = [5] * int(random.integers(1, 9)) if origin == 1 else action
        rows.append([*prompt, *said, codec.eos_token_id])
    labels = torch.full((examples, 20), IGNORE_INDEX)
    for row, ids in zip(labels, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    targets = labels[labels != IGNORE_INDEX]
    logits = torch.randn(len(targets), codec.actions.vocab_size, generator=torch.Generator().manual_seed(seed))
    logits[torch.arange(len(targets)), targets] += 3.5  # some are right
    return labels, torch.tensor(source), logits


def summed(scorer: Scorer, labels: torch.Tensor, source: torch.Tensor, logits: torch.Tensor) -> np.ndarray:
    targets = labels[labels != IGNORE_INDEX]
    losses = F.cross_entropy(logits, targets, reduction="none")
    return scorer.sums(logits, targets, losses, scorer.cells(labels, source)).double().numpy()


def apart(codec: Codec, a: int, b: int) -> float:
    """Distance of two action tokens in [-1, 1] units."""
    return abs(float(codec.actions.decode(np.array(a)) - codec.actions.decode(np.array(b))))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def reference(codec: Codec, sources: list[Origin], labels, source, logits) -> dict[str, float]:
    """The same, one position at a time."""
    spec, rows = codec.spec, []
    losses = iter(F.cross_entropy(logits, labels[labels != IGNORE_INDEX], reduction="none").tolist())
    chosen = iter(logits.argmax(-1).tolist())
    for ids, origin in zip(labels.tolist(), source.tolist(), strict=True):
        kept = [token for token in ids if token != IGNORE_INDEX]
        for place, token in enumerate(kept):
            acts = origin != 1 and place < 8
            rows.append((origin, place % 4 if acts else None, token, next(chosen), next(losses)))

    def scores(mine: list[tuple]) -> dict[str, float]:
        acts = [row for row in mine if row[1] is not None]
        found = {"loss": mean([row[4] for row in mine])}
        found["action_token_accuracy"] = mean([row[2] == row[3] for row in acts])
        found["l1_normalized"] = mean([apart(codec, row[2], row[3]) for row in acts])
        metres: dict[int, list[float]] = {}
        counts = {"hit": 0, "only one": 0}
        for origin, part, token, said, _ in acts:
            held = sources[origin].statistics
            centers = [codec.actions.decode(np.full(4, each)) for each in (token, said)]
            a, b = (unnormalize(center, held)[part] for center in centers)
            metres.setdefault(part, []).append(abs(a - b))
            if part == 3:
                middle = (held.min[3] + held.max[3]) / 2
                counts["hit"] += a < middle and b < middle
                counts["only one"] += (a < middle) != (b < middle)
        for part, name in enumerate(("x_m", "y_m", "turn_rad_per_s", "gripper")):
            found[f"l1_physical/{name}"] = mean(metres[part])
        if any(counts.values()):
            found["gripper_f1"] = float(2 * counts["hit"] / (2 * counts["hit"] + counts["only one"]))
        return found

    found = scores([row for row in rows if row[0] != 1]) | {"loss": mean([row[4] for row in rows])}
    talk = [row for row in rows if row[0] == 1]
    found["language_loss"] = mean([row[4] for row in talk])
    found["language_token_accuracy"] = mean([row[2] == row[3] for row in talk])
    for part, name in enumerate(spec.names):
        here = [row for row in rows if row[1] == part]
        found[f"action_token_accuracy/{name}"] = mean([row[2] == row[3] for row in here])
        found[f"l1_normalized/{name}"] = mean([apart(codec, row[2], row[3]) for row in here])
    for number, key in ((0, "left"), (2, "right_hand")):
        found |= {f"{key}/{name}": value for name, value in scores([r for r in rows if r[0] == number]).items()}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_a_loop_over_positions(codec: Codec, sources: list[Origin], seed: int) -> None:
    scorer, batch = Scorer(sources, codec, CPU), made(codec, seed)
    found = scorer.metrics(summed(scorer, *batch))
    assert found == pytest.approx(reference(codec, sources, *batch), rel=1e-5)


def test_sums_of_parts_give_the_metrics_of_the_whole(codec: Codec, sources: list[Origin]) -> None:
    scorer = Scorer(sources, codec, CPU)
    labels, source, logits = made(codec)
    counts = (labels != IGNORE_INDEX).sum(1).tolist()
    sizes = [sum(counts[start : start + 5]) for start in (0, 5, 10)]
    pieces = zip(labels.split(5), source.split(5), logits.split(sizes), strict=True)
    added = sum(summed(scorer, *piece) for piece in pieces)
    assert scorer.metrics(added) == pytest.approx(scorer.metrics(summed(scorer, labels, source, logits)), rel=1e-6)


def test_what_did_not_occur_has_no_metrics(codec: Codec, sources: list[Origin]) -> None:
    scorer = Scorer(sources, codec, CPU)
    labels, source, logits = made(codec)
    source[:] = 0
    talk = (labels != IGNORE_INDEX).sum(1) != 9
    labels, source = labels[~talk], source[~talk]
    names = scorer.metrics(summed(scorer, labels, source, logits[: int((labels != IGNORE_INDEX).sum())]))
    assert not [name for name in names if "language" in name or "right_hand" in name]


def test_text_alone_needs_no_action(codec: Codec) -> None:
    silent = dataclasses.replace(codec, action=None, statistics={})
    scorer = Scorer([Origin("talk", None)], silent, CPU)
    labels, source, logits = made(codec)
    found = scorer.metrics(summed(scorer, labels, source * 0, logits))
    assert set(found) == {"loss", "language_loss", "language_token_accuracy"}
    assert found["loss"] == found["language_loss"]


@pytest.mark.parametrize(("convention", "closed"), [("open_is_high", -0.5), ("open_is_low", 0.5)])
def test_a_gripper_closes_on_the_side_that_its_convention_says(codec: Codec, convention: str, closed: float) -> None:
    spec = dataclasses.replace(codec.spec, gripper=convention)
    sign, middle = closed_side(spec, statistics(1.0))
    assert sign * (closed - middle) > 0 > sign * (-closed - middle)


def test_the_threshold_of_a_gripper_that_is_not_normalised_lies_in_the_middle_of_its_range(codec: Codec) -> None:
    held = statistics(1.0, min=np.zeros(4), max=np.ones(4))
    assert closed_side(codec.spec, held) == (-1.0, 0.5)
    assert closed_side(codec.spec, dataclasses.replace(held, mask=None)) == (-1.0, 0.0)


def test_a_gripper_that_never_moves_has_no_f1(codec: Codec) -> None:
    assert closed_side(codec.spec, statistics(1.0, min=np.ones(4), max=np.ones(4))) == (0.0, 0.0)
    assert closed_side(dataclasses.replace(codec.spec, gripper="none"), statistics(1.0)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("unit", "name"), [("m", "x_m"), ("1", "x"), ("", "x"), ("m/s", "x_m_per_s"), ("%", "x_percent"), ("5cm", "x_5cm")]
)
def test_a_physical_metric_is_named_with_its_unit(unit: str, name: str) -> None:
    assert physical_name("x", unit) == name

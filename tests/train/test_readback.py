from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openvla.errors import TrainingError
from openvla.train import loop
from openvla.train.config import TrainConfig
from openvla.train.loop import train
from openvla.train.readback import Readback

Make = Callable[..., TrainConfig]


class Late(Readback):
    """As on a GPU: every report is read a step late."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.late = 1


def test_on_a_cpu_a_report_is_read_at_once() -> None:
    reports, numbers = Readback(torch.device("cpu")), torch.ones(3)
    assert reports.put(4, numbers) == [(4, numbers)]
    assert reports.rest() == []


def test_a_late_report_is_read_a_step_later_and_the_last_one_on_demand() -> None:
    reports = Late(torch.device("cpu"))
    assert reports.put(0, torch.zeros(1)) == []
    assert [step for step, _ in reports.put(1, torch.ones(1))] == [0]
    assert [step for step, _ in reports.rest()] == [1]


def test_a_step_that_must_not_happen_stops_all_later_ones() -> None:
    reports = Late(torch.device("cpu"))
    stopped: list[float] = []
    for value in (1.0, float("nan"), 1.0):
        reports.put(0, torch.tensor([value]))
        stopped.append(reports.stopped.item())
    assert stopped == [0.0, 1.0, 1.0]


def test_reports_that_are_read_late_change_nothing_else(config: Make, tmp_path: Path, monkeypatch) -> None:
    at_once = train(config(output=tmp_path / "a", log_every=4)).metrics
    monkeypatch.setattr(loop, "Readback", Late)
    late = train(config(output=tmp_path / "b", log_every=4)).metrics
    assert {n: v for n, v in late.items() if "perf" not in n} == {n: v for n, v in at_once.items() if "perf" not in n}


@pytest.mark.parametrize("reports", [Readback, Late])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_changes_no_weight_whenever_it_is_read(
    config: Make, monkeypatch: pytest.MonkeyPatch, reports: type[Readback], accumulate: int
) -> None:
    original, seen = loop.Run.accumulate, {}

    def poisoned(run: loop.Run, batch: dict[str, torch.Tensor], share: torch.Tensor) -> torch.Tensor:
        found = original(run, batch, share)
        if run.step == 3 and not seen:
            seen["weights"] = [parameter.detach().clone() for parameter in run.trainable]
            seen["run"] = run
            run.trainable[0].grad[0] = float("inf")
        return found

    monkeypatch.setattr(loop, "Readback", reports)
    monkeypatch.setattr(loop.Run, "accumulate", poisoned)
    with pytest.raises(
        TrainingError, match=r"^step 3: the loss is [\d.]+ and its gradient norm (inf|nan); no .* 'metaworld' \(loss"
    ):
        train(config(log_every=10, save_every=10, validate_every=10, accumulate=accumulate))
    now = seen["run"].trainable
    assert all(torch.equal(a, b) for a, b in zip(seen["weights"], now, strict=True))
    steps = {int(held["step"]) for held in seen["run"].optimizer.state.values()}
    assert steps == {3}

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from openvla.data import recording
from openvla.data.recording import record_dataset
from openvla.data.rlds import read_episodes
from openvla.errors import UsageError
from openvla.sim.demonstrations import Demonstration


class FakeRecording(Iterator[Demonstration]):
    """Two demonstrations, then the end or an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.failures = {"reach": 3}
        self.closed = False
        self._shown = self._show(error)

    def __next__(self) -> Demonstration:
        return next(self._shown)

    def close(self) -> None:
        self.closed = True

    @staticmethod
    def _show(error: Exception | None) -> Iterator[Demonstration]:
        for seed in range(2):
            images = np.zeros((4, 8, 8, 3), np.uint8)
            yield Demonstration("reach", "reach it", seed, images, np.ones((4, 4), np.float32), np.ones((4, 4)), True)
        if error is not None:
            raise error


def test_what_is_recorded_can_be_read_back(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(recording, "record", lambda *args, **settings: FakeRecording())
    recorded = record_dataset(tmp_path / "d", "metaworld", ["reach"], 2)
    assert (recorded.episodes, recorded.steps, recorded.dropped) == (2, 8, {"reach": 3})
    assert [episode.metadata["seed"] for episode in read_episodes(recorded.directory)] == [0, 1]


def test_an_interrupted_recording_leaves_nothing_and_closes_the_simulator(monkeypatch, tmp_path) -> None:
    fake = FakeRecording(RuntimeError("the simulator broke"))
    monkeypatch.setattr(recording, "record", lambda *args, **settings: fake)
    with pytest.raises(RuntimeError, match="the simulator broke"):
        record_dataset(tmp_path / "d", "metaworld", ["reach"], 3)
    assert fake.closed
    assert not list(tmp_path.iterdir())


def test_an_unknown_suite_is_named(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"unknown suite 'libero'; known are metaworld"):
        record_dataset(tmp_path, "libero", None, 1)

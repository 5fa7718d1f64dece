"""From a simulator's experts to a data set on disk, with a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from openvla.data.episode import Episode, demonstration_episode
from openvla.data.rlds import write_episodes
from openvla.errors import lookup
from openvla.sim.demonstrations import Recording, record
from openvla.sim.metaworld import IMAGE_SIZE
from openvla.sim.suites import SUITES


@dataclass(frozen=True)
class Recorded:
    """directory: the version directory. steps: in all episodes. dropped: failed expert episodes, by task."""

    directory: Path
    episodes: int
    steps: int
    dropped: dict[str, int]


def record_dataset(
    directory: str | Path,
    suite: str,
    tasks: Sequence[str] | None,
    episodes: int,
    *,
    seed: int = 0,
    noise: float = 0.0,
    image_size: int = IMAGE_SIZE,
    workers: int = 1,
    gain: float = 1.0,
) -> Recorded:
    """Record `episodes` successful expert episodes of each task (None: the suite's default ones) below `directory`.

    The data set is there whole or not at all. noise, image_size, gain: see `sim.demonstrations.record`.
    Raises UsageError for an unknown suite or task, InputError for numbers out of range, DataError for an existing
    target, SimulatorError where the simulator cannot run or its expert keeps failing.
    """
    chosen = tuple(dict.fromkeys(lookup(suite, SUITES, "suite").default if tasks is None else tasks))
    recording = record(chosen, episodes, seed=seed, noise=noise, image_size=image_size, workers=workers, gain=gain)
    stream = _Stream(recording, episodes * len(chosen))
    try:
        written = write_episodes(directory, stream, name=suite)
    finally:
        stream.close()
    return Recorded(written, episodes * len(chosen), stream.steps, dict(recording.failures))


class _Stream(Iterator[Episode]):
    """The recording as episodes; counts steps and moves the bar."""

    def __init__(self, recording: Recording, total: int) -> None:
        self.steps = 0
        self._recording = recording
        self._bar = tqdm(total=total, unit="episode", desc="recording", file=sys.stderr)

    def __next__(self) -> Episode:
        shown = next(self._recording)
        self._bar.update()
        self.steps += len(shown.actions)
        return demonstration_episode(
            shown.images, shown.actions, shown.proprio, shown.instruction, task=shown.task, seed=shown.seed
        )

    def close(self) -> None:
        """End the workers and the bar's line."""
        self._recording.close()
        self._bar.close()

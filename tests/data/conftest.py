from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from openvla.data.episode import Episode, demonstration_episode
from openvla.data.rlds import write_episodes

Writer = Callable[..., Path]


def plain_episodes(count: int, steps: int = 5, size: int = 16) -> Iterator[Episode]:
    """Episodes of the record "metaworld" whose first action value tells episode and step."""
    random = np.random.default_rng(count)
    for seed in range(count):
        images = random.integers(0, 256, (steps, size, size, 3), dtype=np.uint8)
        actions = random.normal(size=(steps, 4))
        actions[:, 0] = seed + np.arange(steps) / 100
        yield demonstration_episode(images, actions, np.ones((steps, 3)), f"open door {seed}", task="door", seed=seed)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Nine episodes of five steps in about five shards."""
    return write_episodes(tmp_path / "shards", plain_episodes(9), name="shards", shard_megabytes=0.011)


@pytest.fixture
def flip() -> Callable[[Path, int], None]:
    """Inverts one byte of a file and keeps its time, as a failing disk does."""

    def invert(path: Path, offset: int) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= 0xFF
        path.write_bytes(bytes(data))

    return invert

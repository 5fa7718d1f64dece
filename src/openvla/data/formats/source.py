"""A data set of any format, opened: its name, its splits, and its episodes one at a time.

Each format is one subclass that knows how to count its episodes and to load one of them; memory is that of one
episode, and images that lie in a file as pixels or as a video are fetched when asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path

from openvla.data.bad import BadData
from openvla.data.episode import Episode
from openvla.data.formats.splits import select
from openvla.data.tfds.features import Features
from openvla.errors import DataError

INSTRUCTION = "language_instruction"
IMAGE = "observation|image"
STATE = "observation|state"
ACTION = "action"


class Source(ABC):
    """One data set on disk.

    path: what the user named. format: "rlds", "lerobot", "hdf5", "folder" or "iterator".
    name, version: what it calls itself. control_hz: steps per second, 0.0 where the data do not say.
    """

    format: str

    def __init__(self, path: Path, name: str, version: str = "", control_hz: float = 0.0) -> None:
        self.path, self.name, self.version, self.control_hz = path, name, version, control_hz

    @cached_property
    def splits(self) -> Mapping[str, int]:
        """Episodes of each split. Raises DataError where they cannot be counted."""
        return self._count()

    @cached_property
    def features(self) -> Features:
        """How every episode is described. Raises DataError where that cannot be read."""
        return self._describe()

    @abstractmethod
    def _count(self) -> Mapping[str, int]: ...

    @abstractmethod
    def _describe(self) -> Features: ...

    @abstractmethod
    def load(self, split: str, number: int) -> Episode:
        """Episode `number` of `split`. Raises DataError naming file and episode."""

    def episodes(self, split: str = "train", bad: BadData | None = None) -> Iterator[Episode]:
        """Stream the episodes that `split` names, in order; `bad` says what to do with those that cannot be used.

        split: a name, "all", a slice such as "train[:95%]", or several joined by "+".
        Raises DataError at once for a split that does not exist.
        """
        parts = select(split, self.splits, str(self.path))
        makers = (partial(self._whole, name, number) for name, numbers in parts for number in numbers)
        return (bad or BadData()).good(makers)

    def _whole(self, split: str, number: int) -> Episode:
        episode = self.load(split, number)
        if not len(episode):
            raise empty(episode)
        return episode


def empty(episode: Episode) -> DataError:
    """The error for an episode without steps."""
    return DataError(f"{episode.source} is an empty episode, it has no steps; drop it, or record it again")

"""Episodes that a Python program makes: an iterable of `Episode`s, or of mappings of arrays.

A mapping holds what `build_episode` takes, one row per step: `observation|image` uint8 (T, H, W, 3), `action` (T, A),
`language_instruction` as one str or T of them, and whatever else a step carries. `FILE.py:NAME` names such an iterable
in the user's own file, or a function without arguments that returns one.

Shapes: T steps, A action dimensions, H x W pixels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from openvla.data.bad import BadData
from openvla.data.episode import Episode, build_episode
from openvla.data.formats.source import ACTION, INSTRUCTION, Source
from openvla.data.tfds.features import Features
from openvla.errors import DataError, unknown

Item = Episode | Mapping[str, Any]


class IteratorSource(Source):
    """One split, "train", of what an iterable yields. What can be iterated once can be read once."""

    format = "iterator"

    def __init__(self, items: Iterable[Item], path: Path | None = None) -> None:
        super().__init__(path or Path("iterator"), "episodes")
        self._items = items

    @cached_property
    def _held(self) -> int:
        return sum(1 for _ in self._items)

    def _count(self) -> Mapping[str, int]:
        return {"train": self._held}

    def _describe(self) -> Features:
        for number, item in enumerate(self._items):
            return make_episode(item, number).features
        raise DataError(f"{self.path} yields no episode; yield at least one")

    def load(self, split: str, number: int) -> Episode:
        for place, item in enumerate(self._items):
            if place == number:
                return make_episode(item, number)
        raise DataError(
            f"{self.path} yields no episode {number} of {split!r}; an iterator can be read once, give a list"
        )

    def episodes(self, split: str = "train", bad: BadData | None = None) -> Iterator[Episode]:
        """All episodes, in one pass, for the splits "train" and "all"; a slice counts them first."""
        if split not in ("train", "all"):
            return super().episodes(split, bad)
        makers = (
            lambda item=item, number=number: make_episode(item, number) for number, item in enumerate(self._items)
        )
        return (bad or BadData()).good(makers)


def make_episode(item: Item, number: int) -> Episode:
    """One item as an episode. Raises DataError for one that lacks actions, is empty, or is of another kind."""
    source = f"episode {number} of the iterator"
    if isinstance(item, Episode):
        episode = item
    elif hasattr(item, "keys"):
        episode = _build(item, source)
    else:
        raise DataError(f"{source} is a {type(item).__name__}; yield an Episode or a mapping of arrays")
    if not len(episode):
        raise DataError(f"{source} is empty, it has no steps; leave it out")
    return episode


def import_episodes(spec: str) -> Iterable[Item]:
    """What `FILE.py:NAME` names. Raises DataError for a file or name that is not there, and what cannot be iterated."""
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise DataError(f"there is no file {path}; write FILE.py:NAME")
    described = importlib.util.spec_from_file_location("openvla_user_episodes", path)
    if described is None or described.loader is None:
        raise DataError(f"{path} is no Python file; write FILE.py:NAME")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    if not hasattr(module, name):
        raise DataError(f"{path}: {unknown(name, [x for x in vars(module) if not x.startswith('_')], 'name')}")
    found: Any = getattr(module, name)
    if callable(found):
        return _Calls(cast("Callable[[], Iterable[Item]]", found))
    if not isinstance(found, Iterable):
        raise DataError(f"{path}: {name!r} is a {type(found).__name__}, not an iterable of episodes nor a function")
    return cast("Iterable[Item]", found)


class _Calls(Iterable[Item]):
    """What a function returns, made anew for every pass."""

    def __init__(self, make: Callable[[], Iterable[Item]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Item]:
        return iter(self._make())


def _build(item: Mapping[str, Any], source: str) -> Episode:
    if ACTION not in item:
        raise DataError(f"{source} lacks 'action'; it has {', '.join(map(str, item)) or 'nothing'}")
    said = item.get(INSTRUCTION, "")
    words = [said] * len(item[ACTION]) if isinstance(said, str) else said
    return build_episode({**item, INSTRUCTION: words}, image_format="png", source=source)

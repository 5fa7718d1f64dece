"""A data set of any format to RLDS or LeRobot v3.0, checked by reading it back.

Before an episode is written, its actions are looked at for NaN and every image is decoded once. After the last, the
new data set is read beside the old one: actions, words and all other numbers must be the same bits in the stored type,
images that were passed through the same bytes or pixels; what is left is reported as PSNR. The target appears when all
of that has succeeded; a killed conversion goes on at its last part when it is run again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from openvla.data.bad import BadData
from openvla.data.conversion.compare import Comparison, compare
from openvla.data.conversion.journal import Journal, journal
from openvla.data.conversion.recode import check_usable, reencode, without
from openvla.data.episode import Episode
from openvla.data.formats.detect import open_source
from openvla.data.formats.source import Source
from openvla.data.formats.splits import select
from openvla.data.lerobot.write import LeRobotWriter
from openvla.data.tfds.info import VERSION
from openvla.data.tfds.write import RldsWriter
from openvla.errors import DataError, UsageError, lookup

TARGETS = ("rlds", "lerobot")
IMAGES = ("keep", "jpeg", "png", "video")
Progress = Callable[[Iterable[Episode], str], Iterable[Episode]]


@dataclass(frozen=True)
class Conversion:
    """How to convert.

    format: "rlds" or "lerobot". split: what to take, each split under its own name.
    images: "keep" passes encoded images through (those that are not encoded become PNG); "jpeg", "png", "video".
    fps: steps per second for LeRobot; None takes what the data say. drop: features to leave out.
    part_megabytes: a new file is begun once one holds this much.
    Raises UsageError for other formats and images.
    """

    format: str
    split: str = "all"
    images: str = "keep"
    fps: float | None = None
    drop: tuple[str, ...] = ()
    part_megabytes: float = 100.0

    def __post_init__(self) -> None:
        lookup(self.format, dict.fromkeys(TARGETS), "target format")
        lookup(self.images, dict.fromkeys(IMAGES), "way to store images")
        if self.images == "video" and self.format == "rlds":
            raise UsageError("RLDS stores images one by one, not as a video; use --images keep, jpeg or png")


@dataclass
class Converted:
    """What was written and how it compares. directory: where; splits: episodes of each; skipped: what was left out."""

    directory: Path
    splits: dict[str, int] = field(default_factory=dict[str, int])
    steps: int = 0
    comparison: Comparison = field(default_factory=Comparison)
    skipped: list[str] = field(default_factory=list[str])


class Writer(Protocol):
    """What writes one format part by part; see `RldsWriter` and `LeRobotWriter`."""

    def restore(self, state: dict[str, Any]) -> None: ...
    def add(self, episode: Episode, split: str) -> None: ...
    @property
    def full(self) -> bool: ...
    def commit(self) -> tuple[dict[str, Any], list[Path]]: ...
    def close(self) -> None: ...
    def finish(self, splits: dict[str, int]) -> None: ...


@dataclass
class _Account:
    """How far one conversion is, per split. taken: episodes read; written; dropped: those read but not usable."""

    taken: dict[str, int] = field(default_factory=dict[str, int])
    written: dict[str, int] = field(default_factory=dict[str, int])
    dropped: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    skipped: list[str] = field(default_factory=list[str])


def _silent(episodes: Iterable[Episode], stage: str) -> Iterable[Episode]:
    del stage
    return episodes


def convert(
    source: Source,
    destination: str | Path,
    settings: Conversion,
    *,
    bad: BadData | None = None,
    progress: Progress = _silent,
) -> Converted:
    """Write `source` to the directory `destination` as `settings` say.

    progress: wraps the stream of episodes of one stage, whose name it is given.
    Raises DataError for an existing target, for data that cannot be used or held, and where what is read back differs;
    UsageError for settings that do not fit.
    """
    bad = bad or BadData()
    target = Path(destination)
    if settings.format == "rlds" and not VERSION.fullmatch(target.name):
        target = target / "1.0.0"
    parts = _by_name(source, settings.split)
    with journal(target, repr((str(source.path.absolute()), source.format, settings, bad.mode))) as work:
        account = _write(source, parts, settings, work, bad, progress)
        done = Converted(target, account.written, skipped=account.skipped)
        again = open_source(work.place, settings.format)
        for split, spec in parts.items():
            old = _kept(source.episodes(spec, BadData(bad.mode, quiet=True)), account.dropped.get(split, []), settings)
            pairs = compare(old, again.episodes(split), done.comparison)
            done.steps += sum(len(episode) for episode in progress(pairs, f"checking {split}"))
    return done


def _write(
    source: Source, parts: dict[str, str], settings: Conversion, work: Journal, bad: BadData, show: Progress
) -> _Account:
    """Write what no earlier run has committed, and the descriptions."""
    account = _Account(**work.state["account"]) if work.state else _Account()
    writer = _writer(source, parts, settings, work)
    if work.state:
        writer.restore(work.state["writer"])

    def commit(sealed: bool = False) -> None:
        state, paths = writer.commit()
        account.skipped = list(dict.fromkeys([*account.skipped, *bad.skipped]))
        work.commit({"writer": state, "account": vars(account)}, paths, sealed)

    with contextlib.closing(writer):
        for split, spec in parts.items():
            stream = islice(source.episodes(spec, bad), account.taken.get(split, 0), None)
            for episode in _usable(show(stream, f"writing {split}"), account, split, bad):
                writer.add(_changed(episode, settings), split)
                account.written[split] = account.written.get(split, 0) + 1
                if writer.full:
                    commit()
            if not account.written.get(split):
                raise DataError(f"{source.path} has no usable episode in split {split!r}; each needs at least one")
            commit()
        commit(sealed=True)
        writer.finish(account.written)
    return account


def _usable(episodes: Iterable[Episode], account: _Account, split: str, bad: BadData) -> Iterator[Episode]:
    """The episodes that can be used; the others are reported and noted."""
    for episode in episodes:
        number = account.taken.get(split, 0)
        account.taken[split] = number + 1
        try:
            check_usable(episode)
        except DataError as error:
            bad.report(error)
            account.dropped.setdefault(split, []).append(number)
        else:
            yield episode


def _kept(episodes: Iterable[Episode], dropped: list[int], settings: Conversion) -> Iterator[Episode]:
    """What the new data set is compared with: the episodes as they were."""
    return (without(episode, settings.drop) for n, episode in enumerate(episodes) if n not in dropped)


def _changed(episode: Episode, settings: Conversion) -> Episode:
    episode = without(episode, settings.drop)
    return reencode(episode, settings.images) if settings.images in ("jpeg", "png") else episode


def _writer(source: Source, parts: dict[str, str], settings: Conversion, work: Journal) -> Writer:
    bad = BadData("skip", quiet=True)
    first = next((e for spec in parts.values() for e in source.episodes(spec, bad)), None)
    if first is None:
        why = f": {bad.skipped[0]}" if bad.skipped else "; nothing to write"
        raise DataError(f"{source.path} has no usable episode in {', '.join(parts) or 'any split'}{why}")
    first, place = _changed(first, settings), work.place
    name, version = _name_and_version(work.target)
    if settings.format == "rlds":
        return RldsWriter(place, first, name=name, version=version, part_megabytes=settings.part_megabytes)
    rate = source.control_hz if settings.fps is None else settings.fps
    if rate <= 0 or rate != int(rate):
        raise UsageError(
            f"LeRobot needs a whole number of steps a second, these data "
            f"{f'say {rate:g}' if rate else 'do not say it'}; give --fps, or resample with `data doctor --fix`"
        )
    video = settings.images == "video"
    return LeRobotWriter(place, first, name=name, fps=int(rate), video=video, part_megabytes=settings.part_megabytes)


def _by_name(source: Source, spec: str) -> dict[str, str]:
    """Split name -> what to read of it."""
    if source.format == "iterator":
        return {"train": spec}
    table: dict[str, list[str]] = {}
    for name, numbers in select(spec, source.splits, str(source.path)):
        table.setdefault(name, []).append(f"{name}[{numbers.start}:{numbers.stop}]")
    return {name: "+".join(parts) for name, parts in table.items()}


def _name_and_version(target: Path) -> tuple[str, str]:
    """What a data set at `target` is called: by its directory, or the one above a version directory."""
    place, version = target.absolute(), "1.0.0"
    if VERSION.fullmatch(place.name):
        place, version = place.parent, place.name
    return re.sub(r"\W", "_", place.name), version

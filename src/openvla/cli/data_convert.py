"""`openvla data convert`: a data set of any format to RLDS or LeRobot v3.0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from openvla.cli.output import Result, table

if TYPE_CHECKING:
    from openvla.data.conversion.convert import Converted
    from openvla.data.episode import Episode


@dataclass(frozen=True)
class Options:
    """Convert a data set to RLDS or LeRobot v3.0 and check the result by reading it back.

    A conversion that was interrupted goes on where it was when the same line is run again.
    """

    source: Annotated[str, tyro.conf.Positional]
    """An RLDS or LeRobot directory, an HDF5 file or directory, a folder of images with a table, or FILE.py:NAME."""
    destination: Annotated[Path, tyro.conf.Positional]
    """Directory to write; it must not exist yet."""
    format: str
    """What to write: rlds or lerobot."""
    source_format: str | None = None
    """What is read: rlds, lerobot, hdf5, folder or iterator; told by the content where omitted."""
    split: str = "all"
    """What to take: a split's name, a slice such as "train[:95%]", or "all"; each split keeps its name."""
    images: str = "keep"
    """How images are stored: keep (as they are; PNG where they are not encoded), jpeg, png, or video (LeRobot only)."""
    fps: float | None = None
    """Steps per second, which LeRobot wants to know; what the data say where omitted."""
    drop: tuple[str, ...] = ()
    """Features to leave out, e.g. language_embedding."""
    on_bad: str = "raise"
    """What to do with an episode that cannot be used: raise (stop there), or skip (count, log and list)."""
    shard_megabytes: float = 100.0
    """A new file is begun once one holds this much; an interrupted conversion goes on at the last file."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Convert, check, and hand back what was written and how it compares."""
    from openvla.data.bad import BadData
    from openvla.data.conversion.convert import Conversion, convert
    from openvla.data.formats.detect import open_source

    settings = Conversion(
        options.format, options.split, options.images, options.fps, options.drop, options.shard_megabytes
    )
    source = open_source(options.source, options.source_format)
    bad = BadData(options.on_bad)
    done = convert(source, options.destination, settings, bad=bad, progress=shown)
    data = {
        "directory": done.directory,
        "source_format": source.format,
        "format": options.format,
        "episodes": sum(done.splits.values()),
        "steps": done.steps,
        "splits": done.splits,
        "check": done.comparison.to_dict(),
        "skipped": done.skipped,
    }
    return Result(data, _readable(done))


def shown(episodes: Iterable[Episode], stage: str) -> Iterable[Episode]:
    """The episodes, with a progress bar on standard error."""
    from tqdm import tqdm

    return tqdm(episodes, desc=stage, unit="episode")


def _readable(done: Converted) -> str:
    from openvla.data.bad import BadData

    check = done.comparison.to_dict()
    rows = [(name, count, "bit-equal") for name, count in check["bit_equal_values"].items()]
    rows += [
        (name, len(done.comparison.psnr_db[name]), f"PSNR {film['mean']:.1f} dB, at least {film['min']:.1f}")
        for name, film in check["psnr_db"].items()
    ]
    splits = ", ".join(f"{name} {count}" for name, count in done.splits.items())
    lines = [f"{sum(done.splits.values())} episodes ({splits}), {done.steps} steps", ""]
    lines += [table(("feature", "values", "read back"), rows), ""]
    summary = BadData("skip", done.skipped).summary()
    return "\n".join([*lines, *([summary, ""] if summary else []), str(done.directory)])

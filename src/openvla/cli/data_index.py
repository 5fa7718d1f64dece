"""`openvla data index`: find every frame of a data set once, so that training reads any of them at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openvla.cli.output import Result


@dataclass(frozen=True)
class Options:
    """Scan a data set's shards and write an index: numbers, instructions, and where in the files each image is.

    Training makes the index itself where there is none. A scan that was interrupted continues where it was.
    """

    directory: Annotated[Path, tyro.conf.Positional]
    """A data set: for RLDS its version directory or the one above; of another format a copy is made in the cache."""
    dataset: str | None = None
    """Which standardisation applies, e.g. bridge_orig or my_file.py:MINE; the data set's own name where omitted."""
    output: Path | None = None
    """Directory of the index; where omitted, in $OPENVLA_CACHE or ~/.cache/openvla, where training looks for it."""
    workers: int = min(8, os.cpu_count() or 1)
    """Processes that scan side by side."""
    on_bad: Literal["raise", "skip"] = "raise"
    """What to do with an episode or shard that cannot be used: stop, or leave it out and list it."""
    again: bool = False
    """Make the index anew even where it fits."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Make or find the index; hand back where it is and what is in it."""
    from openvla.data.bad import BadData
    from openvla.data.formats.detect import open_source
    from openvla.data.index.find import ensure_index
    from openvla.data.registry.find import named_or_own

    dataset = named_or_own(options.dataset, open_source(options.directory).name)
    place, bad = options.output, BadData(options.on_bad)
    found = ensure_index(options.directory, dataset, place, workers=options.workers, bad=bad, again=options.again)
    header = found.index.header
    size = sum(path.stat().st_size for path in found.index.directory.iterdir())
    data = {
        "index": found.index.directory,
        "data": header.data,
        "dataset": dataset,
        "made": found.made,
        "stale": found.why,
        "episodes": header.episodes,
        "steps": header.rows,
        "views": header.views,
        "action_dim": header.action_dim,
        "proprio_dim": header.proprio_dim,
        "bytes": size,
        "skipped": bad.skipped,
    }
    said = "made" if found.made else "up to date"
    text = f"{header.episodes} episodes, {header.rows} steps, {size / 1e6:.1f} MB, {said}: {found.index.directory}"
    return Result(data, "\n".join(filter(None, [text, bad.summary()])))

"""`openvla data inspect`: what a data set holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from openvla.cli.output import Result, table

SHOWN_INSTRUCTIONS = 20


@dataclass(frozen=True)
class Options:
    """Show a data set's splits, features, image sizes, instructions and ranges, reading every episode once."""

    directory: Annotated[Path, tyro.conf.Positional]
    """An RLDS data set: its version directory or the one above."""
    split: str = "all"
    """What to read: a split's name, a slice such as "train[:10]", or "all"."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Read the data set and hand back its summary."""
    from tqdm import tqdm

    from openvla.data.rlds import read_episodes
    from openvla.data.summary import summarize

    episodes = read_episodes(options.directory, options.split)
    data = summarize(options.directory, tqdm(episodes, unit="episode", desc="reading", leave=False)).to_dict()
    return Result(data, _readable(data))


def _readable(data: dict[str, Any]) -> str:
    splits = ", ".join(f"{name} {episodes}" for name, episodes in data["splits"].items())
    length = data["episode_length"]
    lines = [
        f"{data['name']} {data['version']} at {data['directory']}",
        f"episodes: {splits}",
        f"read: {data['episodes']} episodes, {data['steps']} steps"
        + (f" ({length['min']} to {length['max']} each, median {length['median']:g})" if length else ""),
        *(f"camera {key}: {', '.join(sizes)} pixels" for key, sizes in data["image_sizes"].items()),
        "",
        table(("feature", "stored as"), data["features"].items()),
        "",
        table(("range", "dimension", "min", "max"), _ranges(data["ranges"])),
        "",
        table(("instruction", "episodes"), list(data["instructions"].items())[:SHOWN_INSTRUCTIONS]),
    ]
    more = len(data["instructions"]) - SHOWN_INSTRUCTIONS
    return "\n".join(lines + ([f"... and {more} more instructions"] if more > 0 else []))


def _ranges(ranges: dict[str, dict[str, list[float]]]) -> list[tuple[object, ...]]:
    return [
        (name, n, f"{low:.5g}", f"{high:.5g}")
        for name, both in ranges.items()
        for n, (low, high) in enumerate(zip(both["min"], both["max"], strict=True))
    ]

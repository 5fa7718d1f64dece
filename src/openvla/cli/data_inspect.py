"""`openvla data inspect`: what a data set holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from openvla.cli.output import Result, table

SHOWN_INSTRUCTIONS = 20


@dataclass(frozen=True)
class Options:
    """Show a data set's splits, features, image sizes, instructions and ranges, reading every episode once."""

    directory: Annotated[Path, tyro.conf.Positional]
    """A data set of any format: RLDS or LeRobot directory, HDF5, a folder of images with a table, or FILE.py:NAME."""
    dataset: str | None = None
    """Show what this record makes of the data, too: a name, e.g. bridge_orig, or FILE.py:NAME."""
    split: str = "all"
    """What to read: a split's name, a slice such as "train[:10]", or "all"."""
    on_bad: Literal["raise", "skip"] = "raise"
    """What to do with an episode that cannot be used: stop, or leave it out and list it."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Read the data set and hand back its summary."""
    from tqdm import tqdm

    from openvla.data.bad import BadData
    from openvla.data.formats.detect import open_dataset
    from openvla.data.registry.find import find_record
    from openvla.data.registry.summary import describe
    from openvla.data.summary import summarize

    record = None if options.dataset is None else find_record(options.dataset)
    bad = BadData(options.on_bad)
    episodes = open_dataset(options.directory, split=options.split, bad=bad)
    data = summarize(options.directory, tqdm(episodes, unit="episode", desc="reading", leave=False)).to_dict()
    if record is not None:
        again = BadData(options.on_bad, quiet=True)
        first = next(iter(open_dataset(options.directory, split=options.split, bad=again)), None)
        data["record"] = describe(record, first)
    data["skipped"] = bad.skipped
    return Result(data, "\n\n".join(filter(None, [_readable(data), bad.summary()])))


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
    lines += [f"... and {more} more instructions"] if more > 0 else []
    return "\n".join(lines + (_as_record(data["record"]) if "record" in data else []))


def _as_record(record: dict[str, Any]) -> list[str]:
    """What a record makes of the data: cameras, the common action, its first steps."""
    action = record["action"]
    rows = zip(action["names"], action["units"], action["normalized"], *record["first_actions"], strict=True)
    steps = [f"step {step}" for step in record["first_steps"]]
    return [
        "",
        f"as {record['name']}: {action['control_hz']:g} actions a second (0: unknown), gripper {action['gripper']}, "
        f"{record['proprio_dimensions']} numbers of proprioception",
        *(f"view {view}: {name}" for view, name in record["cameras"].items()),
        "",
        table(
            ("action", "unit", "normalised", *steps),
            [
                (name, unit, "yes" if norm else "no", *(f"{v:.5g}" for v in values))
                for name, unit, norm, *values in rows
            ],
        ),
    ]


def _ranges(ranges: dict[str, dict[str, list[float]]]) -> list[tuple[object, ...]]:
    return [
        (name, n, f"{low:.5g}", f"{high:.5g}")
        for name, both in ranges.items()
        for n, (low, high) in enumerate(zip(both["min"], both["max"], strict=True))
    ]

"""`openvla data doctor`: what is wrong with a data set, and how to mend it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from openvla.cli.output import Result, table
from openvla.errors import UsageError

if TYPE_CHECKING:
    from openvla.codec.codec import Codec
    from openvla.data.doctor.examine import Diagnosis
    from openvla.data.formats.source import Source
    from openvla.data.registry.record import DataRecord

SEPARATOR = re.compile(r",(?=[a-z-]+(?:=|,|$))")
"""Between fixes; a comma inside words (label=open the door, slowly) does not separate."""


@dataclass(frozen=True)
class Options:
    """Examine a data set of any format and say what would harm training, each finding with its remedy.

    The fixes, applied in the order given: strip-noops, resample=5hz (relative actions), resample-absolute=5hz,
    drop-nan, drop-unlabelled, label=WORDS, invert-gripper.
    """

    directory: Annotated[str, tyro.conf.Positional]
    """An RLDS or LeRobot directory, an HDF5 file or directory, a folder of images with a table, or FILE.py:NAME."""
    dataset: str | None = None
    """Examine and mend the action and words that this record makes: a name, e.g. bridge_orig, or FILE.py:NAME."""
    output: Path | None = None
    """Directory to write report.html and report.json to."""
    split: str = "all"
    """What to read: a split's name, a slice such as "train[:10]", or "all"."""
    source_format: str | None = None
    """What is read: rlds, lerobot, hdf5, folder or iterator; told by the content where omitted."""
    hz: float = 0.0
    """Steps per second; what the data say where omitted."""
    checkpoint: str = "nano"
    """The policy whose view of the frames is compared with training's; "none" leaves that out."""
    fix: str = ""
    """Fixes for a cleaned copy, joined by commas, e.g. strip-noops,resample=5hz."""
    fixed_output: Path | None = None
    """Where the cleaned copy goes."""
    fixed_format: str | None = None
    """Format of the cleaned copy, rlds or lerobot; as the source where that is one of them, else rlds."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Examine, write the report and the cleaned copy where asked for, and hand back the findings."""
    from tqdm import tqdm

    from openvla.data.doctor.examine import diagnose, write_report
    from openvla.data.formats.detect import open_source
    from openvla.data.registry.find import find_record

    if bool(options.fix) != (options.fixed_output is not None):
        raise UsageError("--fix and --fixed-output belong together: name the fixes and where the cleaned copy goes")
    record = None if options.dataset is None else find_record(options.dataset)
    source = open_source(options.directory, options.source_format)
    codec = _codec(options.checkpoint)
    fixed = _cleaned(options, source, record)
    show = partial(tqdm, desc="examining", unit="episode")
    diagnosis = diagnose(source, split=options.split, control_hz=options.hz, codec=codec, record=record, progress=show)
    data = diagnosis.to_dict() | {"dataset": options.dataset, "report": None, "fixed": None}
    text = _readable(diagnosis)
    if options.output is not None:
        data["report"] = write_report(options.output, diagnosis)
        text += f"\n\n{data['report']}"
    if fixed is not None:
        data["fixed"] = _write(options, *fixed)
        text += "\n\n{episodes} episodes, {steps} steps after {fixes}\n{directory}".format(**data["fixed"])
    return Result(data, text)


def _codec(checkpoint: str) -> Codec | None:
    if checkpoint == "none":
        return None
    from openvla.model.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint).codec


def _cleaned(options: Options, source: Source, record: DataRecord | None) -> tuple[Source, Any] | None:
    """The data set with the fixes applied and how it is written; wrong fixes are refused before anything is read."""
    if not options.fix:
        return None
    from openvla.data.conversion.clean import CleanedSource
    from openvla.data.conversion.convert import TARGETS, Conversion

    form = options.fixed_format or (source.format if source.format in TARGETS else "rlds")
    cleaned = CleanedSource(source, SEPARATOR.split(options.fix), options.hz, record)
    return cleaned, Conversion(form, options.split)


def _write(options: Options, cleaned: Source, settings: Any) -> dict[str, Any]:
    from openvla.cli.data_convert import shown
    from openvla.data.bad import BadData
    from openvla.data.conversion.convert import convert

    assert options.fixed_output is not None
    bad = BadData("skip")
    done = convert(cleaned, options.fixed_output, settings, bad=bad, progress=shown)
    return {
        "directory": str(done.directory),
        "fixes": options.fix,
        "episodes": sum(done.splits.values()),
        "steps": done.steps,
        "skipped": done.skipped,
    }


def _readable(diagnosis: Diagnosis) -> str:
    rows: list[tuple[object, ...]] = [(f.severity, f.name, f.text) for f in diagnosis.findings]
    remedies = [(f.name, f.remedy) for f in diagnosis.findings if f.remedy]
    lines = [diagnosis.verdict, "", table(("severity", "finding", "what was found"), rows)]
    if remedies:
        lines += ["", table(("finding", "remedy"), remedies)]
    return "\n".join(lines)

"""`openvla bench data`: how fast training frames are made, by stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openvla.cli.output import Result, table


@dataclass(frozen=True)
class Options:
    """Time how frames become training batches: by stage on one core, memory, the first batch, and waiting."""

    directory: Annotated[Path, tyro.conf.Positional]
    """A data set: for RLDS its version directory or the one above; of another format a copy is made in the cache."""
    dataset: str | None = None
    """Which standardisation applies; the data set's own name where omitted."""
    split: str = "train"
    """Which frames: a split's name, or a slice such as "train[:95%]"."""
    checkpoint: str = "nano"
    """Whose prompt and tokenizer: a checkpoint directory or a shipped name."""
    size: int = 224
    """Height and width of the model's images, in pixels."""
    mode: Literal["exact", "fast", "processor"] = "exact"
    """How stored bytes become an image: as published training does it, faster, or as the checkpoint's processor."""
    augment: bool = False
    """Crop and colour the images as published training does."""
    frames: int = 500
    """Frames that are timed."""
    batch_size: int = 32
    """Frames per batch."""
    workers: int = 1
    """Threads, or processes, that make batches for the loader's figures."""
    processes: bool = False
    """Load with worker processes rather than threads."""
    samples_per_s: float = 100.0
    """Pace of the training whose waiting for data is measured."""
    soak: int = 0
    """Frames to load besides, e.g. 200000, to see whether memory grows."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Measure, and hand back the figures."""
    from openvla.data.formats.cached import rlds_of
    from openvla.data.formats.detect import open_source
    from openvla.data.loading.bench import Setting, bench_data
    from openvla.data.registry.find import named_or_own
    from openvla.model.locate import resolve

    dataset = named_or_own(options.dataset, open_source(options.directory).name)
    setting = Setting(
        data=str(rlds_of(options.directory).absolute()),
        dataset=dataset,
        checkpoint=str(resolve(options.checkpoint)[0].absolute()),
        split=options.split,
        size=options.size,
        mode=options.mode,
        augmented=options.augment,
        frames=options.frames,
        batch_size=options.batch_size,
        workers=options.workers,
        processes=options.processes,
        samples_per_s=options.samples_per_s,
        soak=options.soak,
    )
    found = bench_data(setting)
    rows = [(stage, f"{rate:.0f}", f"{1e6 / rate:.0f}") for stage, rate in found["frames_per_s"].items()]
    kind = "process" if options.processes else "thread"
    text = (
        f"{table(('stage', 'frames/s per core', 'us'), rows)}\n\n"
        f"loader: {found['loader_frames_per_s']:.0f} frames/s with {options.workers} {kind}(s); at "
        f"{options.samples_per_s:g} samples/s the training waits {found['stall_share']:.1%} of the time\n"
        f"first batch {found['first_batch_s']:.2f} s after process start; {found['resident_bytes'] / 2**20:.0f} MiB "
        "resident"
    )
    if found["soak"] is not None:
        text += "\nsoak: {frames} frames, {frames_per_s:.0f} a second".format(**found["soak"])
        text += f", memory grew by {found['soak']['growth_bytes'] / 1e6:.1f} MB"
    return Result(found, text)

"""How fast training frames are made on this machine: each stage on one core, then the loader as training uses it.

Stages are timed one frame after another in one thread, over frames in the sampler's order, each over a batch of frames
before the next begins, so that no more is held than in training; actions and words are encoded a batch at once, as in
training. Images stay uint8: they are normalised where the model is.

Shapes: H, W recorded image; S model input.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from openvla.codec.batch import Example, join
from openvla.codec.codec import Codec
from openvla.codec.images import ImageTransform
from openvla.codec.statistics import DatasetStatistics, normalize
from openvla.data.images.augment import AugmentConfig, augment
from openvla.data.images.pixels import Pixels, decode_image
from openvla.data.index.find import ensure_index
from openvla.data.index.statistics import index_statistics
from openvla.data.loading.batches import Batches
from openvla.data.loading.frames import Frames, split_mask
from openvla.data.loading.loader import load
from openvla.errors import DataError, InputError
from openvla.files import read_json

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Setting:
    """What is measured. size: S. mode: a key of `pixels.MODES`. frames: how many are timed.

    samples_per_s: the pace of the training that the loader feeds, for the share of time that it waits.
    soak: frames that are loaded while memory is watched; 0 leaves that out.
    """

    data: str
    dataset: str
    checkpoint: str
    split: str
    size: int
    mode: str
    augmented: bool
    frames: int
    batch_size: int
    workers: int
    processes: bool
    samples_per_s: float
    soak: int


def open_batches(setting: Setting) -> Batches:
    """The batches of uint8 images that are measured. Raises DataError, and UsageError for unknown names."""
    index = ensure_index(setting.data, setting.dataset, workers=setting.workers).index
    pixels = Pixels(setting.mode, setting.size, AugmentConfig() if setting.augmented else None)
    statistics: DatasetStatistics = index_statistics(index)
    frames = Frames(index, split_mask(index, setting.split), statistics.action, pixels=pixels)
    codec = _codec(Path(setting.checkpoint))
    images = ImageTransform("resize-naive", (setting.size,), ((0.0, 0.0, 0.0),), ((1.0, 1.0, 1.0),))
    codec = replace(codec, images=images, action=None, statistics={}, chunk=1)
    return Batches(frames, codec, setting.batch_size, seed=0)


def bench_data(setting: Setting) -> dict[str, Any]:
    """Frames per second by stage and in all, memory in bytes, seconds to the first batch, share of waiting.

    Raises InputError for counts below 1, and as `open_batches`.
    """
    if min(setting.frames, setting.batch_size, setting.workers) < 1 or not setting.samples_per_s > 0:
        raise InputError("frames, batch size, workers and samples per second must each be above 0")
    if setting.soak < 0:
        raise InputError(f"the soak is {setting.soak} frames; give a number from 0")
    batches = open_batches(setting)
    before = resident_bytes()
    stages = _stages(batches, setting)
    loaded = _loader(batches, setting)
    return {
        "frames_per_s": stages,
        "loader_frames_per_s": loaded["frames_per_s"],
        "stall_share": loaded["stall_share"],
        "first_batch_s": first_batch_s(setting),
        "resident_bytes": resident_bytes(),
        "resident_growth_bytes": resident_bytes() - before,
        "soak": soak(batches, setting),
        "frames": setting.frames,
        "cores": len(os.sched_getaffinity(0)),
    }


def resident_bytes() -> int:
    """Resident memory of this process."""
    fields = Path("/proc/self/statm").read_text().split() if Path("/proc/self/statm").exists() else []
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def soak(batches: Batches, setting: Setting) -> dict[str, float] | None:
    """Load `setting.soak` frames; how many per second, and by how much memory grew. None for 0 frames.

    growth_bytes: the largest resident memory seen, less that after the first tenth, when every buffer has its size.
    """
    steps = setting.soak // setting.batch_size
    if not steps:
        return None
    start = time.perf_counter()
    stream = load(batches, range(steps), workers=setting.workers, use_processes=setting.processes)
    seen = [resident_bytes() for _ in stream]
    settled = seen[len(seen) // 10]
    return {
        "frames": steps * setting.batch_size,
        "frames_per_s": steps * setting.batch_size / (time.perf_counter() - start),
        "resident_bytes": max(seen),
        "growth_bytes": max(seen[len(seen) // 10 :]) - settled,
    }


def first_batch_s(setting: Setting) -> float:
    """Seconds from the start of a new process until it holds a batch, with the index in place."""
    code = f"from openvla.data.loading.bench import Setting, open_batches; open_batches({setting!r})[0]"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"a new process cannot read {setting.data}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start


def _frames(batches: Batches) -> Frames:
    """The frames of the one data set that is measured."""
    return cast("Frames", batches.sources[0])


def _codec(directory: Path) -> Codec:
    if (directory / "codec.json").is_file():
        return Codec.load(directory)
    config: Any = read_json(directory / "config.json", DataError, "name the directory of a checkpoint")
    return Codec.from_published(config, directory)


def _stages(batches: Batches, setting: Setting) -> dict[str, float]:
    """Frames per second of one core: of each stage, and "all" of them together as a worker runs them."""
    frames = _frames(batches)
    rows = frames.rows(batches.sampler.draw(np.arange(setting.frames))[1]).tolist()
    size = setting.batch_size
    batches.make(0)
    spent: dict[str, float] = {}
    for first in range(0, len(rows), size):
        _stages_of(batches, setting, rows[first : first + size], spent)
    rates = {name: len(rows) / seconds for name, seconds in spent.items()}
    steps = max(1, setting.frames // size)
    start = time.perf_counter()
    for step in range(steps):
        batches.make(step)
    return {**rates, "all": steps * size / (time.perf_counter() - start)}


def _stages_of(batches: Batches, setting: Setting, rows: list[int], spent: dict[str, float]) -> None:
    """Adds the seconds that each stage takes for `rows` to `spent`."""
    frames, codec = _frames(batches), batches.codec
    pixels = Pixels(setting.mode, setting.size)
    scaled = setting.size if setting.mode == "fast" else 0

    def decode(row: int, data: bytes) -> NDArray[np.uint8]:
        try:
            return decode_image(data, "the image", scaled)
        except DataError:
            return frames.image(data, row)  # says where it is

    read = _timed("read", spent, frames.fetch, rows)
    pairs = zip(rows, read, strict=True)
    decoded = _timed("decode", spent, lambda pair: decode(pair[0], pair[1][0]), pairs)
    sized = _timed("resize", spent, pixels.resize, decoded)
    if setting.augmented:
        config, chance = AugmentConfig(), np.random.default_rng(0)
        sized = _timed("augment", spent, lambda image: augment(image, chance, config), sized)
    start = time.perf_counter()
    _, words, actions = zip(*read, strict=True)
    sequences = codec.encode_sequences(words, normalize(np.stack(actions), frames.statistics))
    join(np.empty(0), [Example(image, *pair) for image, pair in zip(sized, sequences, strict=True)], codec.pad_token_id)
    spent["encode"] = spent.get("encode", 0.0) + time.perf_counter() - start


def _timed(name: str, spent: dict[str, float], work: Callable[[T], U], items: Iterable[T]) -> list[U]:
    start = time.perf_counter()
    done = [work(item) for item in items]
    spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
    return done


def _loader(batches: Batches, setting: Setting) -> dict[str, float]:
    """As training uses it: at full speed, and beside a consumer of a fixed pace."""
    steps = max(4, setting.frames // setting.batch_size)
    stream = load(batches, range(steps), workers=setting.workers, use_processes=setting.processes)
    next(stream)
    start = time.perf_counter()
    full = sum(len(batch["input_ids"]) for batch in stream) / (time.perf_counter() - start)
    stream = load(batches, range(steps), workers=setting.workers, use_processes=setting.processes)
    next(stream)
    waited, start = 0.0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        batch = next(stream, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        time.sleep(setting.batch_size / setting.samples_per_s)
    return {"frames_per_s": full, "stall_share": waited / (time.perf_counter() - start)}

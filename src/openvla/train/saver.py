"""Checkpoints that are written while the training goes on, by all processes, and appear whole or not at all.

`save` copies the tensors to the CPU, which is all the training waits for; a thread then writes every process's slices
to a hidden directory, and when all are on disk the first process renames it. A process killed meanwhile leaves the
checkpoint before it as it was, and a hidden directory that `leftovers` finds.

Source: torch.distributed.checkpoint, whose files any number of processes can read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from openvla.errors import TrainingError
from openvla.files import publish
from openvla.train.world import World

STATE = "state"
FULL_BYTES = 1 << 20
"""A disk with less room than this is full: a checkpoint writes more at a time."""


def saved_steps(output: Path) -> list[tuple[int, Path]]:
    """(step, directory) of every complete checkpoint, oldest first."""
    found = [(int(path.name.removeprefix("step-")), path) for path in (output / "checkpoints").glob("step-*")]
    return sorted(found)


def step_directory(output: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return output / "checkpoints" / f"step-{step:06d}"


def leftovers(output: Path) -> list[Path]:
    """What a killed process had begun to write or to remove."""
    return [*output.glob(".final.*.tmp"), *output.glob("checkpoints/.step-*.tmp")]


class Saver:
    """Writes one checkpoint at a time and keeps the newest `keep`."""

    def __init__(self, world: World, output: Path, keep: int) -> None:
        self._world, self._output, self._keep = world, output, keep
        # of its own, since messages of the writing thread must not mix with those of the training
        self._group: Any = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, "openvla-checkpoint")
        self._pending: tuple[Path, Future[None]] | None = None

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], documents: Callable[[Path], None]) -> None:
        """Begin to write `tensors`, by group and name, unless that step is on disk already.

        tensors: this process may hold slices of them.
        documents: adds small files to the directory it is given; called in the first process only, in the thread.
        Raises TrainingError where the checkpoint before this one could not be written.
        """
        self.wait()
        target = step_directory(self._output, step)
        place = target.with_name(f".{target.name}.tmp")
        if not self._world.on_first(lambda: _cleared(target, place)):
            return
        writer = FileSystemWriter(place / STATE)
        try:
            upload: Any = async_save(dict(tensors), storage_writer=writer, process_group=self._group)
        except (Exception, CheckpointException) as error:
            raise _refused(target, place, error) from error
        self._pending = target, self._thread.submit(self._finish, upload, place, target, documents)

    @property
    def failed(self) -> bool:
        """Whether the checkpoint being written is known to be lost; `wait` says why."""
        return self._pending is not None and self._pending[1].done() and self._pending[1].exception() is not None

    def wait(self) -> None:
        """Return when the checkpoint being written is on disk. Every process must ask.

        Raises TrainingError, in every process, where the first could not write it.
        """
        if self._pending is not None:
            self._world.on_first(self._settle)
            self._settle()

    def _settle(self) -> None:
        if self._pending is None:
            return
        target, future = self._pending
        self._pending = None
        try:
            future.result()
        except (Exception, CheckpointException) as error:
            raise _refused(target, target.with_name(f".{target.name}.tmp"), error) from error

    def close(self) -> None:
        """End the thread, after what it is writing."""
        self._thread.shutdown()

    def _finish(self, upload: Future[Any], place: Path, target: Path, documents: Callable[[Path], None]) -> None:
        upload.result()
        if not self._world.first:
            return
        documents(place)
        publish(place, target)
        for _, old in saved_steps(self._output)[: -self._keep]:
            doomed = old.with_name(f".{old.name}.tmp")  # else a half removed one would look complete
            old.rename(doomed)
            shutil.rmtree(doomed)


def _cleared(target: Path, place: Path) -> bool:
    """Make room for `place`; False where `target` is there already."""
    if target.exists():
        return False
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise _refused(target, place, error) from error
    return True


def _refused(target: Path, place: Path, error: BaseException) -> TrainingError:
    """The sentence for a checkpoint that could not be written, whose remains are removed."""
    why = "the disk is full" if _full(place) else reason(error)
    shutil.rmtree(place, ignore_errors=True)
    return TrainingError(
        f"cannot write {target}: {why}; the checkpoints before it are whole: free some space and continue with --resume"
    )


def _full(place: Path) -> bool:
    """Whether what was written to `place` has used up its disk; of that, torch's writer tells only a wrong position."""
    return place.is_dir() and shutil.disk_usage(place).free < FULL_BYTES


def reason(error: BaseException) -> str:
    """The first line of what went wrong below, wherever the checkpoint library wrapped it."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).strip().splitlines()[0]

"""One frame of a video file at a given time, in order or out of order.

Frames that follow each other are decoded in one run; any other begins at the key frame before it. The container stays
open, so a reader belongs to one process: `open_video` keeps a few of them per process.

Shapes: H x W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.errors import DataError, require

AHEAD_S = 2.0
"""A frame at most this far ahead is reached by decoding on, a farther one by seeking."""
FETCH = "fetch the file again, or drop the episode"


class Video:
    """A video file, open. Raises DataError where it cannot be read, is damaged or holds no video."""

    def __init__(self, path: Path) -> None:
        self._av: Any = require("av", "data")
        self.path = path
        try:
            self._container: Any = self._av.open(str(path))
            self._stream: Any = self._container.streams.video[0]
        except (OSError, ValueError, IndexError, self._av.FFmpegError) as error:
            raise DataError(f"{path} is no readable video: {_reason(error)}; {FETCH}") from error
        self._stream.thread_type = "NONE"
        self._frames: Iterator[Any] = iter(())
        self._last: Any = None

    @property
    def duration_s(self) -> float:
        """Where the last frame ends, as the container says; infinite where it does not say."""
        if self._stream.duration is None:
            return float("inf")
        return float((self._stream.duration + (self._stream.start_time or 0)) * self._stream.time_base)

    def at(self, time_s: float, slack_s: float) -> NDArray[np.uint8]:
        """The frame shown at `time_s` +- `slack_s`, uint8 (H, W, 3) RGB.

        Raises DataError where the video ends before, has no frame there, or is damaged.
        """
        try:
            return self._find(time_s, slack_s).to_ndarray(format="rgb24")
        except (OSError, ValueError, self._av.FFmpegError) as error:
            self._last = None
            raise DataError(f"{self.path} is damaged at {time_s:.3f} s: {_reason(error)}; {FETCH}") from error

    def _find(self, time_s: float, slack_s: float) -> Any:
        frame = self._last
        if frame is None or not -slack_s <= time_s - frame.time <= AHEAD_S:
            self._container.seek(max(0, round(time_s / self._stream.time_base) - 1), stream=self._stream)
            self._frames, frame = self._container.decode(self._stream), None
        while frame is None or frame.time < time_s - slack_s:
            before, frame = frame, next(self._frames, None)
            if frame is None:
                self._last = None
                end = f"ends at {before.time:.3f} s" if before is not None else "has no frame from there on"
                raise DataError(
                    f"{self.path} {end}, before the frame at {time_s:.3f} s that the metadata promises; {FETCH}"
                )
        self._last = frame
        if frame.time > time_s + slack_s:
            raise DataError(
                f"{self.path} has no frame at {time_s:.3f} s, the nearest is at {frame.time:.3f} s; the frame rate in "
                "the metadata does not fit the video"
            )
        return frame


def open_video(path: Path) -> Video:
    """The video at `path`; the last few stay open in this process. Raises DataError."""
    return _open(path, os.getpid())


@lru_cache(maxsize=8)
def _open(path: Path, process: int) -> Video:
    del process  # a child process must not share the file position of its parent
    return Video(path)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)

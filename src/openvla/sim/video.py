"""MP4 files that every browser plays: H.264 with 4:2:0 colour."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvla.errors import UsageError, require
from openvla.files import write_bytes

QUALITY = "24"  # x264's constant rate factor: lower is better, 23 its default


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> None:
    """Write or replace `path` in one step. `frames`: uint8 (H, W, 3), at least one, H and W even.

    Raises UsageError where the disk refuses, MissingDependencyError without PyAV.
    """
    write_bytes(path, encode(frames, fps), UsageError)


def encode(frames: Sequence[NDArray[np.uint8]], fps: float) -> bytes:
    """The bytes of the MP4."""
    av = require("av", "sim")
    height, width, _ = frames[0].shape
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": QUALITY})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()

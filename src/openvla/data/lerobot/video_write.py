"""Frames to an mp4 file: AV1 as LeRobot writes it, H.264 where AV1 cannot.

AV1: SVT-AV1, yuv420p, constant quality 30, a key frame every second frame so that any frame is reached quickly.
Both codecs halve the resolution of colour, so width and height must be even; SVT-AV1 takes 64 pixels a side and more.

Shapes: H x W pixels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.errors import DataError, require

AV1, H264 = "libsvtav1", "libx264"
OPTIONS = {AV1: {"g": "2", "crf": "30"}, H264: {"g": "2", "crf": "23"}}
NAMES = {AV1: "av1", H264: "h264"}
AV1_MINIMUM = 64


class VideoWriter:
    """One mp4 file that is being written; frame i is shown at i / fps seconds."""

    def __init__(self, path: Path, fps: int, height: int, width: int) -> None:
        """Raises DataError for sizes that no codec takes."""
        os.environ.setdefault("SVT_LOG", "1")  # errors only: it prints its settings otherwise
        self._av: Any = require("av", "data")
        codec = video_codec(height, width)
        self.path, self.frames = path, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container: Any = self._av.open(str(path), "w")
        self._stream: Any = self._container.add_stream(codec, rate=fps, options=OPTIONS[codec])
        self._stream.pix_fmt, self._stream.width, self._stream.height = "yuv420p", width, height

    def add(self, image: NDArray[np.uint8]) -> None:
        """Append one frame, uint8 (H, W, 3) RGB."""
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = self.frames
        self.frames += 1
        self._container.mux(self._stream.encode(frame))

    def size(self) -> int:
        """Bytes written so far; the encoder holds back a few frames."""
        return self.path.stat().st_size if self.path.exists() else 0

    def close(self) -> None:
        """Write what the encoder still holds, and the file's index."""
        if self.frames:
            self._container.mux(self._stream.encode())
        self._container.close()


def video_codec(height: int, width: int) -> str:
    """The encoder for frames of that size. Raises DataError where there is none."""
    codecs = require("av", "data").codecs_available
    if height % 2 or width % 2:
        raise DataError(f"frames of {width}x{height} pixels cannot be a video, sides must be even; use --images keep")
    if AV1 in codecs and min(height, width) >= AV1_MINIMUM:
        return AV1
    if H264 in codecs:
        return H264
    raise DataError("this installation of PyAV has neither SVT-AV1 nor x264; install the wheel, or use --images keep")

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from openvla.errors import UsageError
from openvla.sim.video import encode, write_video

FRAMES = [np.full((32, 48, 3), (value, 255 - value, 0), np.uint8) for value in range(0, 240, 12)]


def test_a_video_plays_back_its_frames_at_its_rate(tmp_path):
    path = tmp_path / "film.mp4"
    write_video(path, FRAMES, fps=16.0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 16.0
    assert len(shown) == len(FRAMES)
    for one, two in zip(shown, FRAMES, strict=True):
        assert np.abs(one.astype(int) - two).mean() < 12


def test_the_same_frames_give_the_same_bytes():
    assert encode(FRAMES, 16.0) == encode(FRAMES, 16.0)
    assert av.open(io.BytesIO(encode(FRAMES, 16.0))).format.name.startswith("mov,mp4")


def test_a_directory_that_is_not_there_is_told_and_nothing_is_left(tmp_path):
    with pytest.raises(UsageError, match=r"cannot write .*film\.mp4: No such file or directory; choose another place"):
        write_video(tmp_path / "absent" / "film.mp4", FRAMES, 16.0)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_film(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_video(path, FRAMES, 16.0)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

from __future__ import annotations

import os
import shutil

import pytest

from openvla.data.formats.cached import rlds_of
from openvla.data.formats.detect import open_source
from openvla.errors import UsageError


def test_rlds_stands_for_itself_and_others_are_copied_once(toy_data, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENVLA_CACHE", str(tmp_path / "cache"))
    assert rlds_of(toy_data) == toy_data
    place = shutil.copytree(shared / "data" / "lerobot_v3_image", tmp_path / "set")
    copy = rlds_of(place)
    assert copy.is_relative_to(tmp_path / "cache")
    assert open_source(copy).splits == {"train": 4}
    assert rlds_of(place) == copy
    os.utime(place / "meta" / "info.json", (0, 0))
    assert rlds_of(place) != copy


def test_what_a_function_makes_is_to_be_written_first(tmp_path):
    (tmp_path / "mine.py").write_text("x = []")
    with pytest.raises(UsageError, match="write them with `openvla data convert` first"):
        rlds_of(f"{tmp_path}/mine.py:x")

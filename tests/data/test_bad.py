from __future__ import annotations

import pytest

from openvla.data.bad import SHOWN, BadData
from openvla.errors import DataError, UsageError


def fail():
    raise DataError("episode 1 is bad")


def test_bad_data_stops_by_default():
    with pytest.raises(DataError, match="episode 1 is bad"):
        list(BadData().good([lambda: 0, fail]))


def test_skipping_counts_logs_and_lists(caplog):
    bad = BadData("skip")
    assert list(bad.good([lambda: 0, fail, lambda: 2])) == [0, 2]
    assert bad.summary() == "skipped 1:\nepisode 1 is bad"
    assert "skipped: episode 1 is bad" in caplog.text


def test_a_long_list_is_cut():
    assert BadData("skip", ["x"] * (SHOWN + 3)).summary().endswith("... and 3 more")


def test_another_mode_is_refused():
    with pytest.raises(UsageError, match="raise or skip, not by 'warn'"):
        BadData("warn")


def test_what_is_read_again_is_counted_and_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    bad = BadData("skip", quiet=True)
    bad.report(DataError("x is torn"))
    assert (bad.skipped, caplog.records) == (["x is torn"], [])

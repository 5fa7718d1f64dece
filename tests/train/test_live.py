from __future__ import annotations

import io

import pytest

from openvla.train.live import Live

METRICS = {
    "train/loss": 2.5,
    "train/action_token_accuracy": 0.25,
    "train/l1_normalized": 0.5,
    "perf/samples_per_s": 12.34,
    "perf/mfu": 0.5,
    "perf/data_wait_fraction": 0.02,
    "perf/peak_resident_bytes": 2.0**30,
}
MIXED = METRICS | {"train/a/action_token_accuracy": 0.3, "train/b/action_token_accuracy": 0.2, "validation/loss": 3.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_each_log_line_is_one_line() -> None:
    stream = io.StringIO()
    live = Live(100, 0, False, stream)
    live.show(1, {"parameters/total": 3.0})
    for step in (20, 21, 22):
        live.show(step, METRICS)
    live.show(40, MIXED)
    live.close()
    first, second = stream.getvalue().splitlines()
    assert first.startswith("step 20/100  train loss 2.5 token accuracy 0.25 L1 0.5  12.3 samples/s  0:0")
    assert "validation loss 3" in second


def test_a_table_is_redrawn_in_place_on_a_terminal() -> None:
    stream = Terminal()
    live = Live(100, 0, False, stream)
    live.show(20, MIXED)
    live.show(21, MIXED)  # too soon
    live.show(100, MIXED)
    live.close()
    drawn = stream.getvalue().split("\x1b[J")[1:]
    assert len(drawn) == 2
    assert drawn[0].endswith("\x1b[6F")
    lines = drawn[1].splitlines()
    assert lines[0].startswith("step 100 of 100  [========================]  0:00 left")
    assert [line.split()[0] for line in lines[2:6]] == ["train", "validation", "a", "b"]
    assert "waiting for data 2%" in lines[6]


def test_no_line_of_the_table_wraps_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", "30")
    Live(100, 0, False, stream).show(20, MIXED)
    assert max(map(len, stream.getvalue().split("\x1b[J")[1].splitlines())) <= 29


def test_a_quiet_run_says_nothing() -> None:
    stream = Terminal()
    live = Live(100, 0, True, stream)
    live.show(100, MIXED)
    live.close()
    assert stream.getvalue() == ""


def test_what_is_left_is_told_from_the_steps_of_this_process() -> None:
    live = Live(1000, 900, quiet=False)
    assert live.line(950, {}, 100.0) == "step 950/1000  1:40 left"
    assert Live(9000, 0, quiet=False).line(1, {}, 1.0) == "step 1/9000  2:29:59 left"

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from openvla.cli.main import main
from openvla.errors import UsageError
from openvla.train.report import read_metrics, write_report


def run(place: Path, steps: int = 5, **more: float) -> Path:
    """A run that has logged a few lines."""
    place.mkdir(parents=True)
    lines = [
        {
            "step": step,
            "train/loss": 3.0 / step,
            "train/action_token_accuracy": step / 10,
            "train/l1_physical/x_m": 0.01,
            "train/a<b/loss": 1.0,
            "perf/samples_per_s": 9.0,
            **more,
        }
        for step in range(1, steps + 1)
    ]
    lines.append({"step": steps, "validation/loss": 1.25})
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def test_a_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    text = write_report([run(tmp_path / "one")], tmp_path / "page.html").read_text()
    assert ET.fromstring(text.partition("<body>")[2].partition("</body>")[0]).tag == "main"
    assert "http" not in text
    assert "<script" not in text
    for heading in ("Loss", "Token accuracy", "By dimension", "By data set", "Optimiser and machine", "Last values"):
        assert f"<h2>{heading}</h2>" in text
    assert "a&lt;b/loss" in text


def test_several_runs_are_overlaid_in_their_own_colours(tmp_path: Path) -> None:
    runs = [run(tmp_path / "one"), run(tmp_path / "two"), run(tmp_path / "deep" / "two", steps=9)]
    text = write_report(runs, tmp_path / "page.html").read_text()
    loss = text.partition("<h2>Loss</h2>")[2].partition("</section>")[0]
    assert [f'class="curve s{n}"' in loss for n in range(4)] == [True, True, True, False]
    assert 'class="curve held s0"' in loss
    assert f"{tmp_path}/deep/two" in text


def test_counts_are_written_out_and_measures_rounded(tmp_path: Path) -> None:
    one = run(tmp_path / "one", **{"parameters/total": 6_925_440, "train/gradient_norm": 1 / 3})
    last = write_report([one], tmp_path / "page.html").read_text().partition("<h2>Last values</h2>")[2]
    assert "6,925,440" in last
    assert ">0.333333<" in last


def test_a_line_that_is_being_written_and_what_is_not_finite_are_left_out(tmp_path: Path) -> None:
    place = run(tmp_path / "one", steps=2, odd=float("nan"))
    with (place / "metrics.jsonl").open("a") as file:
        file.write('[1, 2]\n{"step": 3, "train/lo')
    found = read_metrics(place)
    assert found["train/loss"] == [(1.0, 3.0), (2.0, 1.5)]
    assert "odd" not in found


def test_a_directory_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no readable metrics\.jsonl; give the --output directory"):
        write_report([tmp_path], tmp_path / "page.html")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UsageError, match="holds no metrics yet; wait for the first log line"):
        write_report([tmp_path], tmp_path / "page.html")
    with pytest.raises(UsageError, match="at least one run"):
        write_report([], tmp_path / "page.html")


def test_the_command_line_draws_beside_the_first_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = run(tmp_path / "one"), run(tmp_path / "two")
    assert main(["train", "--report", str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(first / "report.html")}
    assert main(["train", "--report", str(first), "--output", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--report"], "at least one run"),
        (["--report", "nowhere"], "nowhere holds no readable"),
        (["--report", "a", "--x"], "--x"),
    ],
)
def test_a_report_of_nothing_is_one_sentence(words: list[str], sentence: str, capsys) -> None:
    assert main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1

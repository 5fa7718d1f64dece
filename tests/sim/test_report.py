from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from openvla.errors import InputError, UsageError
from openvla.sim.evaluation import EpisodeResult, Evaluation, TaskResult
from openvla.sim.report import write_report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Balanced(HTMLParser):
    """Fails where an element is closed that is not the innermost open one."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def evaluation(folder=None, instruction="open the door", rate=1.0):
    films = ["videos/a.mp4", "videos/gone.mp4"]
    episodes = [EpisodeResult("door-open", 7 + i, i < 2 * rate, 12 + i, (3.0, 4.0), films[i]) for i in range(2)]
    tasks = {"door-open": TaskResult(instruction, tuple(episodes))}
    return Evaluation("metaworld", tasks, 16.0, 3.0, folder, {"command": "openvla eval", "seed": "0"})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"film")
    return tmp_path


def test_the_page_holds_plots_numbers_videos_and_circumstances(folder):
    text = write_report(folder / "report.html", evaluation(folder), "A title", notes=["A note."]).read_text()
    for part in ("A title", "A note.", "door-open", "open the door", "2 / 2", "100%", "openvla eval", "62.5 ms"):
        assert part in text
    assert text.count("<svg") == 3
    assert text.count("<video") == 1
    assert base64.b64encode(b"film").decode() in text
    assert "succeeds after 12 actions, seed 7" in text


def test_the_page_fetches_nothing_and_is_well_formed(folder):
    text = write_report(folder / "report.html", evaluation(folder), "A title").read_text()
    assert not re.search(r"https?://|//[a-z]|url\(|@import|<script|<link", text)
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    assert "prefers-color-scheme: dark" in text


def test_several_evaluations_stand_side_by_side(folder):
    runs = {"before": evaluation(folder, rate=0.0), "after": evaluation(folder)}
    text = write_report(folder / "report.html", runs, "Fine-tuning").read_text()
    assert text.count('class="card"') == 2
    assert text.index(">before<") < text.index(">after<")
    assert "fails after 12 actions" in text
    assert text.count("<video") == 2
    assert "<td>0 / 2</td>" in text
    assert "<td>2 / 2</td>" in text


def test_everything_from_outside_is_escaped(folder):
    evil = "<script>alert('&')</script>"
    text = write_report(folder / "r.html", {evil: evaluation(folder, evil)}, evil, notes=[evil]).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="a report needs at least one evaluation; give one, or a mapping"):
        write_report(tmp_path / "r.html", {}, "Empty")


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"cannot write .*r\.html: No such file or directory; choose another place"):
        write_report(tmp_path / "absent" / "r.html", evaluation(), "Title")
    assert not list(tmp_path.iterdir())

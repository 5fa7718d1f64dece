from __future__ import annotations

import threading
from pathlib import Path

import browser
import numpy as np
import pytest
from serving import SPEC, Bright, running

from openvla.serve.watch.demo import Demo
from openvla.spec import Observation, Transition

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")


class Corridor:
    """A world of one number: eight steps, whatever is done, end well."""

    spec = SPEC

    def __init__(self) -> None:
        self.steps, self.threads = 0, set[str]()

    def reset(self, seed: int) -> Observation:
        self.steps, self.seed = 0, seed
        return self._see()

    def step(self, values: np.ndarray) -> Transition:
        self.threads.add(threading.current_thread().name)
        self.steps += 1
        return Transition(self._see(), self.steps == 8, self.steps == 8)

    def close(self) -> None:
        self.steps = -1

    def _see(self) -> Observation:
        image = np.full((32, 32, 3), 40, np.uint8)
        image[8:24, 3 * self.steps : 3 * self.steps + 8] = (200, 120, 40)
        return Observation(image, "walk")


def test_the_page_shows_what_a_robot_sees_and_does(tmp_path: Path) -> None:
    with running() as server, browser.opened(server.url, tmp_path) as tab:
        tab.wait("document.getElementById('state').className === 'ready'")
        assert tab.value("document.getElementById('say').hidden")
        image = np.full((24, 24, 3), 51, np.uint8)
        assert server.post({"image": image, "instruction": "lift <b>it</b>", "robot": "arm 7"})[0] == 200
        tab.wait("document.getElementById('camera').naturalWidth === 24")
        assert tab.value("document.getElementById('told').textContent") == "lift <b>it</b>"
        outputs = tab.value("[...document.querySelectorAll('.dimension output')].map((o) => o.textContent)")
        assert outputs == ["0.200"] * 3
        assert tab.value("document.querySelector('.sure span').textContent") == "90 % sure"
        tab.wait("document.querySelector('#clients tbody tr td')?.textContent === 'arm 7'")
        tab.wait("document.querySelectorAll('#histogram i').length > 0")
        assert tab.errors == []


def test_an_instruction_typed_into_the_page_drives_the_simulator(tmp_path: Path) -> None:
    corridor = Corridor()
    demo = Demo({"walk": "walk to the end", "wait": "stay here"}, lambda scene: corridor)
    policy = Bright()
    with running(policy, demo) as server, browser.opened(server.url, tmp_path) as tab:
        tab.wait("!document.getElementById('say').hidden")
        tab.value("document.getElementById('instruction').value = 'go on then'")
        tab.value("document.getElementById('say').requestSubmit()")
        tab.wait("document.getElementById('episode').textContent === 'done in 8 steps'")
        assert tab.value("document.getElementById('told').textContent") == "go on then"
        assert tab.errors == []
        tab.value("document.getElementById('stop').click()")
    assert corridor.threads == {"demo"}
    assert corridor.steps == -1
    assert "go on then" in {seen.instruction for seen in policy.seen}


def test_the_page_asks_for_the_key_and_then_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENVLA_API_KEY", "open-sesame")
    with running() as server, browser.opened(server.url, tmp_path) as tab:
        for key, ends in (("wrong", "document.getElementById('locked').open"), ("open-sesame", "spec !== null")):
            tab.wait("document.getElementById('locked').open")
            tab.value(f"document.getElementById('key').value = '{key}'")
            tab.value("document.querySelector('#locked form').requestSubmit()")
            tab.wait(ends)
        tab.wait("document.getElementById('state').className === 'ready'")

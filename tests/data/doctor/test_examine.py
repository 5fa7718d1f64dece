from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from openvla.codec.codec import Codec
from openvla.data.doctor.examine import diagnose, write_report
from openvla.data.doctor.parity import parity
from openvla.data.episode import build_episode
from openvla.data.formats.detect import open_source
from openvla.data.formats.iterator import IteratorSource
from openvla.errors import DataError

NANO = Path(__file__).parents[3] / "src" / "openvla" / "shipped" / "nano"


def make(number: int, steps: int = 20, **changes):
    random = np.random.default_rng(number)
    actions = random.normal(size=(steps, 3)).astype(np.float32)
    actions[:, 2] = np.arange(steps) < steps // 2  # opens high, closes half way
    values = {
        "observation|image": random.integers(0, 256, (steps, 16, 16, 3), np.uint8),
        "action": actions,
        "language_instruction": [f"do {number % 3}"] * steps,
        "timestamp": np.arange(steps) / 5,
    }
    return build_episode(values | changes, image_format="png", source=f"episode {number}")


def found(episodes, **settings):
    return {f.name: f for f in diagnose(IteratorSource(episodes), **settings).findings}


def test_a_healthy_set_has_nothing_but_what_is_not_checked():
    diagnosis = diagnose(IteratorSource([make(n) for n in range(20)]))
    assert {f.name: f.text for f in diagnosis.findings if f.severity != "ok"} == {
        "train/serve parity": "not checked: no policy was named"
    }
    assert "high seems to be open" in next(f.text for f in diagnosis.findings if f.name == "gripper")


STUCK = np.ones((20, 16, 16, 3), np.uint8) * np.arange(16, dtype=np.uint8)[:, None]

GLITCH = np.eye(20, 3, -3, np.float32) * 1000 + np.arange(60, dtype=np.float32).reshape(20, 3) / 60


def still(steps=20):
    actions = np.ones((steps, 3), np.float32) * np.arange(steps)[:, None]
    actions[4:16, :2] = 0
    actions[4:, 2] = 4
    return actions


@pytest.mark.parametrize(
    ("name", "severity", "words", "changes"),
    [
        ("no-ops", "warning", "of the steps do nothing", {"action": still()}),
        ("idle runs", "warning", "stand still", {"action": still()}),
        ("NaN", "error", "20 steps with NaN", {"action": np.full((20, 3), np.nan)}),
        ("labels", "error", "1 episodes have no instruction", {"language_instruction": [""] * 20}),
        ("repeated frames", "warning", "the same as the one before", {"observation|image": STUCK}),
        ("blank images", "warning", "1 episodes of one colour", {"observation|image": STUCK * 0}),
        ("image sizes", "warning", "16x16, 8x8", {"observation|image": np.zeros((20, 8, 8, 3), np.uint8)}),
        ("action dimensions", "error", "5 in 1 episodes", {"action": np.random.default_rng(5).normal(size=(20, 5))}),
        ("language", "note", "4 instructions, 3 after case", {"language_instruction": ["Do  1."] * 20}),
        ("outliers", "warning", "widths", {"action": GLITCH}),
    ],
)  # fmt: skip
def test_each_fault_is_found(name, severity, words, changes):
    healthy = [] if name in ("no-ops", "repeated frames") else [make(n) for n in range(24)]
    finding = found([*healthy, make(99, **changes)])[name]
    assert finding.severity == severity
    assert words in finding.text
    assert finding.remedy


def test_a_gripper_that_begins_low_is_suspicious():
    episodes = [make(n) for n in range(5)]
    for episode in episodes:
        episode.steps["action"][:, 2] = 1 - episode.steps["action"][:, 2]
    finding = found(episodes)["gripper"]
    assert finding.severity == "warning"
    assert "high seems to be closed" in finding.text


def test_the_rate_of_the_timestamps_is_compared_and_fast_ones_noted():
    assert found([make(0)], control_hz=5)["control rate"].severity == "ok"
    assert found([make(0)], control_hz=10)["control rate"].severity == "error"
    assert "20 Hz: one action" in found([make(0, timestamp=np.arange(20) / 20)])["control rate"].text
    uneven = np.cumsum(np.random.default_rng(0).choice([0.05, 0.2, 0.5], 20))
    assert found([make(0, timestamp=uneven)])["control rate"].severity == "warning"


def test_saturation_is_seen():
    action = np.clip(np.random.default_rng(0).normal(size=(400, 3)), -0.7, 0.7)
    finding = found([make(0, 400, action=action)])["saturation"]
    assert finding.severity == "warning"


def test_the_real_sample_repeats_itself(shared):
    diagnosis = diagnose(open_source(shared / "data" / "bridge_dataset"))
    table = {f.name: f for f in diagnosis.findings}
    assert table["duplicate episodes"].number == 25  # its val is its train
    assert table["blank images"].number == 50
    assert table["control rate"].number == 5
    assert table["saturation"].severity == "ok"


def test_what_cannot_be_read_is_a_finding():
    finding = found([make(0), {"state": [1]}])["unreadable episodes"]
    assert (finding.severity, finding.number) == ("error", 1)
    assert "lacks 'action'" in finding.where[0]


def test_nothing_to_examine_is_one_sentence():
    with pytest.raises(DataError, match=r"has no usable episode in 'all': episode 0 .*lacks 'action'"):
        diagnose(IteratorSource([{"state": [1]}]))


def test_training_and_use_see_the_same():
    codec = Codec.load(NANO)
    samples = [(np.random.default_rng(n).integers(0, 256, (48, 64, 3), np.uint8), "go") for n in range(3)]
    assert parity(samples, codec).severity == "ok"
    transform = dataclasses.replace(codec.images, strategy="letterbox")

    class Drifted(Codec):
        def encode_image(self, image):
            return transform(image)

    fields = {field.name: getattr(codec, field.name) for field in dataclasses.fields(codec)}
    finding = parity(samples, Drifted(**fields))
    assert finding.severity == "error"
    assert finding.number > 3


def test_the_report_stands_alone(tmp_path):
    diagnosis = diagnose(IteratorSource([make(n, language_instruction=["<b>go</b>"] * 20) for n in range(60)]))
    path = write_report(tmp_path / "report", diagnosis)
    text = path.read_text()
    assert "&lt;b&gt;go&lt;/b&gt;" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert 12 <= text.count("data:image/jpeg;base64,") <= 25
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["episodes"] == 60
    assert {"name", "severity", "number", "text", "remedy", "where"} == content["findings"][0].keys()
    assert sum(content["action"][0]["histogram"]) == 1200

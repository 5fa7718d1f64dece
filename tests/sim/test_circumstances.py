from __future__ import annotations

from pathlib import Path

from openvla.sim import circumstances as module
from openvla.sim.circumstances import circumstances, processor


def test_a_reader_learns_settings_command_date_machine_and_versions():
    facts = circumstances(seed=3, image_size=64)
    assert facts["seed"] == "3"
    assert facts["image size"] == "64"
    assert {"command", "date", "machine", "rendering", "versions"} <= set(facts)
    for package in ("Python", "openvla", "mujoco", "metaworld", "numpy"):
        assert package in facts["versions"]


def test_a_missing_package_is_said_to_be_missing():
    assert module.versioned("no-such-package") == "no-such-package not installed"


def test_a_system_without_cpuinfo_still_names_its_processor(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert processor()

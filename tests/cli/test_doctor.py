from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from openvla.cli.main import main


def test_findings_are_printed_and_drift_is_exit_code_2(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(golden / "micro", tmp_path / "micro")
    line = ["doctor", "--checkpoint", str(tmp_path / "micro")]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["facts"]["rms_norm_eps"]["value"] == 1e-6
    path = tmp_path / "micro" / "fingerprint.json"
    path.write_text(path.read_text().replace('"weights": "', '"weights": "0'))
    assert main([*line, "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is False
    assert "micro is not well: fingerprint: the weights are not those whose fingerprint is stored" in err
    assert main(line) == 2
    assert "FAILED  fingerprint" in capsys.readouterr().out


def test_nano_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--checkpoint", "nano"]) == 0
    assert "sees the image" in capsys.readouterr().out


def test_what_is_no_checkpoint_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--checkpoint", "/no/such/place"]) == 2
    assert "there is no checkpoint '/no/such/place'" in capsys.readouterr().err

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvla.cli.main import main


def test_a_conversion_says_what_was_written(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["convert", str(golden / "micro"), str(tmp_path / "run"), "--format", "prismatic"]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "prismatic"
    assert found["tensors"] == 151
    assert (tmp_path / "run" / "checkpoints" / "latest-checkpoint.pt").is_file()
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "hf")]) == 0
    assert "no tokenizer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--format", "gguf"], "gguf"),
        (["--adapter", "/no/such/place"], "cannot read /no/such/place/adapter_config.json"),
        (["--vision-weights", "/no/such/file"], "holds vision weights of its own"),
        (["--rms-norm-eps", "0"], "rms_norm_eps is 0.0; give a number above 0"),
        (["--tokenizer", "/no/such/place"], "/no/such/place holds no tokenizer files"),
    ],
)
def test_bad_input_is_one_sentence(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert main(["convert", str(golden / "micro"), str(tmp_path / "out"), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []

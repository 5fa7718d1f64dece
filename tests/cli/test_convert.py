from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvla.cli.main import main
from openvla.infer.split import load_edge


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


@pytest.mark.parametrize("cut", ["encoders", "projector"])
def test_the_part_for_beside_the_camera_is_written_and_loads(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: str
) -> None:
    line = ["convert", str(golden / "micro"), str(tmp_path / "edge"), "--format", "edge", "--cut", cut, "--json"]
    assert main(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["cut"]) == ("edge", cut)
    assert found["size_bytes"] > (tmp_path / "edge" / "model.safetensors").stat().st_size
    assert list(load_edge(tmp_path / "edge", device="cpu").cuts)[-1] == cut


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--cut", "encoders"], "--cut encoders says where to divide a policy; give it with --format edge"),
        (["--format", "edge", "--dtype", "fp32"], "the format edge takes the weights as they are stored"),
        (["--format", "edge", "--cut", "middle"], "middle"),
    ],
)
def test_what_does_not_go_with_a_cut_is_refused(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert main(["convert", str(golden / "micro"), str(tmp_path / "out"), *more]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_edge_part_is_cut_once_more_but_grows_no_decoder(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    assert main(["convert", str(golden / "micro"), first, "--format", "edge"]) == 0
    assert main(["convert", first, second, "--format", "edge", "--cut", "encoders"]) == 0
    capsys.readouterr()
    assert main(["convert", second, str(tmp_path / "c"), "--format", "edge"]) == 2
    assert "is an edge part without projector; give the whole checkpoint" in capsys.readouterr().err
    assert main(["convert", first, str(tmp_path / "c")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1

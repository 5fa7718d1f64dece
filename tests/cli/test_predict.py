from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvla.cli.main import main


def save(path: Path, mode: str, **settings: object) -> Path:
    Image.fromarray(np.full((8, 6, 3), 200, np.uint8)).convert(mode).save(path, **settings)
    return path


def predict(image: Path, *more: str, instruction: str = "open the drawer") -> int:
    return main(["predict", "--checkpoint", "nano", "--image", str(image), "--instruction", instruction, *more])


def test_json_holds_the_four_fields_of_the_contract(policies, capsys, tmp_path) -> None:
    assert predict(save(tmp_path / "a.png", "RGB"), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "values": [[200.0, 1.0]],
        "tokens": [[31999, 31744]],
        "confidence": [[0.5, 1.0]],
        "timing_ms": {"total": 2.0},
    }


def test_the_text_names_dimensions_and_units(policies, capsys, tmp_path) -> None:
    assert predict(save(tmp_path / "a.png", "RGB")) == 0
    assert capsys.readouterr().out.splitlines() == [
        "dimension  step      value  unit  confidence",
        "x             0  200.00000  m           0.50",
        "gripper       0    1.00000  1           1.00",
        "",
        "milliseconds: total 2.0",
    ]


def test_options_reach_the_policy(policies, capsys, tmp_path) -> None:
    options = ["--statistics", "bridge_orig", "--quantize", "int8", "--device", "cpu"]
    assert predict(save(tmp_path / "a.png", "RGB"), *options) == 0
    expected = {"source": "nano", "statistics": "bridge_orig", "quantize": "int8", "device": "cpu"}
    assert policies[0].loaded == expected


def test_a_palette_is_looked_up(policies, capsys, tmp_path) -> None:
    assert predict(save(tmp_path / "a.png", "P"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["values"][0][0] == pytest.approx(200, abs=6)


@pytest.mark.parametrize(
    ("name", "mode", "sentence"),
    [
        ("a.png", "L", "image has shape (8, 6), not a uint8 RGB array"),
        ("a.png", "RGBA", "RGBA: use image[..., :3]"),
        ("a.png", "1", "image has dtype bool"),
        ("a.png", "I;16", "image has dtype uint16"),
        ("a.tif", "F", "image has dtype float32"),
        ("a.tif", "CMYK", "a.tif is a CMYK image; convert it to RGB first"),
        ("a.tif", "YCbCr", "a.tif is a YCbCr image; convert it to RGB first"),
    ],
)
def test_an_image_that_is_not_rgb_is_refused(policies, capsys, tmp_path, name, mode, sentence) -> None:
    assert predict(save(tmp_path / name, mode)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert not policies, "the image is judged before the checkpoint is loaded"


def test_a_palette_with_transparency_is_refused(policies, capsys, tmp_path) -> None:
    assert predict(save(tmp_path / "a.png", "P", transparency=0)) == 2
    assert "RGBA: use image[..., :3]" in capsys.readouterr().err


def test_a_missing_image_is_one_sentence(policies, capsys, tmp_path) -> None:
    assert predict(tmp_path / "none.png") == 2
    assert capsys.readouterr().err == f"openvla: {tmp_path}/none.png: no such file or directory; check the path\n"


def test_a_directory_is_no_image(policies, capsys, tmp_path) -> None:
    assert predict(tmp_path) == 2
    assert "is a directory; check the path" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_a_file_that_is_no_image_is_one_sentence(policies, capsys, tmp_path, content) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert predict(tmp_path / "a.png") == 2
    err = capsys.readouterr().err
    assert "a.png cannot be decoded as an image (cannot identify image file" in err
    assert "give an RGB JPEG or PNG file" in err
    assert "<" not in err


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_torn_image_is_one_sentence(policies, capsys, tmp_path, name) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert predict(tmp_path / name) == 2
    assert f"{name} cannot be decoded as an image (" in capsys.readouterr().err


def test_an_empty_instruction_is_one_sentence(policies, capsys, tmp_path) -> None:
    assert predict(save(tmp_path / "a.png", "RGB"), instruction=" ") == 2
    assert "the instruction is empty" in capsys.readouterr().err

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from openvla.errors import CheckpointError
from openvla.model.checkpoint import load_checkpoint
from openvla.model.weights import read_weights


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors")


def shard(directory: Path) -> Path:
    """Cut the weights into two files with an index, which is returned."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(weights)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, directory / file)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards_load_as_one_file_does(saved: Path) -> None:
    whole = load_checkpoint(saved).model.state_dict()
    shard(saved)
    parts = load_checkpoint(saved).model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_weights_are_mapped_not_read(saved: Path) -> None:
    path = saved / "model.safetensors"
    weights = read_weights(saved, load_checkpoint(saved).model.state_dict())
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(path.resolve()) in maps.read_text()
    before = path.read_bytes()
    for tensor in weights.values():
        tensor.zero_()
    assert path.read_bytes() == before


LAST = "language_model.lm_head.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: (w.pop(LAST), w.pop("projector.fc1.bias")),
            r"lacks the tensor 'projector\.fc1\.bias' of shape \[160\] \(2 absent in all\); its weights do not belong",
        ),
        (
            lambda w: w.update({LAST: torch.zeros(7, 32)}),
            r"tensor 'language_model\.lm_head\.weight' has shape \[7, 32\], but config\.json asks for \[1600, 32\]",
        ),
        (
            lambda w: w.update({LAST: torch.zeros(1600, 32, dtype=torch.int8)}),
            r"tensor 'language_model\.lm_head\.weight' is torch\.int8; weights are floating-point numbers",
        ),
        (
            lambda w: w.update({"lora_A": torch.zeros(1), "lora_B": torch.zeros(1)}),
            r"holds 2 tensors that its config\.json has no place for, such as 'lora_A'",
        ),
    ],
    ids=["absent", "shape", "integers", "extra"],
)
def test_tensors_that_do_not_fit_are_named(saved: Path, change: Callable[[Any], object], message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize("length", [0, 5, 1000, -100])
def test_a_torn_weight_file_is_named(saved: Path, length: int) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.safetensors \(.*\); it is damaged or incomplete"):
        load_checkpoint(saved)


def test_absent_weights_are_said(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json"):
        load_checkpoint(saved)


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/passwd", "absent.safetensors", ""])
def test_an_index_stays_within_its_directory(saved: Path, place: str) -> None:
    index = shard(saved)
    (saved.parent / "outside.safetensors").write_bytes(b"secret")
    table = json.loads(index.read_text())
    table["weight_map"][LAST] = place
    index.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=rf"places '{LAST}' in '{place}', which is no file of "):
        load_checkpoint(saved)


def test_a_shard_without_a_promised_tensor_is_named(saved: Path) -> None:
    index = shard(saved)
    table = json.loads(index.read_text())
    first, second = sorted(set(table["weight_map"].values()))
    table["weight_map"][LAST] = second if table["weight_map"][LAST] == first else first
    index.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=rf"lacks the tensor '{LAST}' that model\.safetensors\.index\.json prom"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"model\.safetensors\.index\.json is not JSON"),
        ("[]", r"index\.json holds a list, not an object"),
        ("{}", r"index\.json lacks the field 'weight_map'"),
        ('{"weight_map": {"a": 1}}', r"index\.json: field 'a' is 1, but must be text"),
        ('{"weight_map": {}}', r"lacks the tensor 'vision_backbone\.featurizer\.pos_embed'"),
    ],
)
def test_a_damaged_index_is_named(saved: Path, text: str, message: str) -> None:
    shard(saved).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)

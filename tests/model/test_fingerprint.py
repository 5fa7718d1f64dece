from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla.errors import CheckpointError
from openvla.model.checkpoint import load_checkpoint
from openvla.model.fingerprint import full_hash, read_fingerprint, sample_hash


def test_a_fingerprint_survives_widening_and_order_but_no_change() -> None:
    weights = {"a": torch.randn(300).bfloat16(), "b": torch.randn(3, 4).bfloat16()}
    wide = {name: weights[name].float() for name in ("b", "a")}
    for kind in (sample_hash, full_hash):
        assert kind(weights) == kind(wide)
        assert kind(weights) != kind({**weights, "a": weights["a"] + 1})
        assert kind(weights) != kind({"a": weights["a"], "c": weights["b"]})
        assert kind(weights) != kind({**weights, "b": weights["b"].T})
    flipped = weights["a"].clone()
    flipped[1] += 1
    assert sample_hash({"a": flipped}) == sample_hash({"a": weights["a"]}), "a sample cannot see every value"
    assert full_hash({"a": flipped}) != full_hash({"a": weights["a"]})


def test_weights_that_changed_since_their_fingerprint_do_not_load(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    stored = {"sample": sample_hash(weights), "weights": full_hash(weights), "logits": None}
    (saved / "fingerprint.json").write_text(json.dumps(stored))
    load_checkpoint(saved)
    weights["projector.fc1.weight"] *= 1.01
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"are not those of its fingerprint\.json: they changed since .* --write`"
    ):
        load_checkpoint(saved)


def test_a_damaged_fingerprint_is_named(saved: Path) -> None:
    assert read_fingerprint(saved) is None
    (saved / "fingerprint.json").write_text('{"sample": 3}')
    with pytest.raises(CheckpointError, match=r"fingerprint\.json: field 'sample' is 3, but must be text"):
        read_fingerprint(saved)

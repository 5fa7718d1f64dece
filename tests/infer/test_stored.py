from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla.errors import CheckpointError, UsageError
from openvla.infer.policy import LocalPolicy, load_policy
from openvla.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from openvla.nn.quantized import QuantizedLinear
from openvla.spec import Observation


@pytest.fixture
def plain(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "plain", checkpoint)
    return tmp_path / "plain"


@pytest.fixture
def small(plain: Path, tmp_path: Path) -> Path:
    load_policy(plain, quantize="int8", device="cpu").save(tmp_path / "small")
    return tmp_path / "small"


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_saved_quantised_policy_starts_without_the_original_and_acts_the_same(
    plain: Path, observations: list[Observation], tmp_path: Path, precision: str
) -> None:
    policy = load_policy(plain, quantize=precision, device="cpu")
    policy.save(tmp_path / "small")
    wanted = policy.act_batch(observations)
    for quantize in (None, precision):
        found = load_policy(tmp_path / "small", quantize=quantize, device="cpu").act_batch(observations)
        for ours, theirs in zip(found, wanted, strict=True):
            assert np.array_equal(np.asarray(ours.tokens), np.asarray(theirs.tokens))
            assert np.array_equal(ours.values, theirs.values)


def test_int4_takes_little_more_than_half_a_byte_a_weight(checkpoint: Checkpoint, plain: Path) -> None:
    policy = load_policy(plain, quantize="int4", device="cpu")
    layers = [module for module in policy.model.modules() if isinstance(module, QuantizedLinear)]
    assert len(layers) == 4 * checkpoint.model.config.decoder.num_hidden_layers
    for layer in layers:
        padded = (layer.rows + -layer.rows % 64) * (layer.columns + -layer.columns % 64)
        assert sum(tensor.nbytes for tensor in layer.portable().values()) * 8 == padded * layer.bits


def test_quantising_again_in_another_way_is_refused(small: Path) -> None:
    with pytest.raises(UsageError, match="holds its weights as int8; leave quantize='int4' out, or load the original"):
        load_policy(small, quantize="int4", device="cpu")


def test_a_plain_policy_is_not_saved_as_a_quantised_one(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the policy is not quantised; load it with quantize='int8'"):
        LocalPolicy(checkpoint).save(tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_an_existing_directory_is_not_overwritten(plain: Path) -> None:
    with pytest.raises(CheckpointError, match="plain exists already"):
        load_policy(plain, quantize="int8", device="cpu").save(plain)


@pytest.mark.parametrize(
    "absent", ["projector.fc1.weight", "language_model.model.layers.0.mlp.down.scale"], ids=["plain", "quantised"]
)
def test_an_absent_tensor_is_named(small: Path, absent: str) -> None:
    tensors = load_file(small / "model.safetensors")
    del tensors[absent]
    save_file(tensors, small / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"lacks the tensor '{absent}'; quantise the checkpoint again"):
        load_policy(small, device="cpu")


def test_a_tensor_too_many_is_named(small: Path) -> None:
    save_file({**load_file(small / "model.safetensors"), "more": torch.zeros(2)}, small / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds the tensor 'more' that its config.json has no place for"):
        load_policy(small, device="cpu")


def test_an_unknown_precision_is_refused(small: Path) -> None:
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "quantization": {"precision": "int3"}}))
    with pytest.raises(UsageError, match="unknown precision 'int3'"):
        load_policy(small, device="cpu")


def test_quantised_weights_are_not_taken_for_those_they_were_made_of(small: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds int8 weights, which can act but not be trained.*; give"):
        load_checkpoint(small)

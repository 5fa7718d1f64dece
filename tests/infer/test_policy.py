from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from openvla.errors import CheckpointError, InputError, UsageError
from openvla.infer.policy import LocalPolicy, load_policy, native_dtype
from openvla.model.checkpoint import Checkpoint, save_checkpoint
from openvla.spec import Action, Observation, Policy

PHASES = ["preprocess", "vision", "prefill", "decode", "post", "total"]


@pytest.fixture
def policy(checkpoint: Checkpoint) -> LocalPolicy:
    return LocalPolicy(checkpoint)


def with_codec(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    return dataclasses.replace(checkpoint, codec=dataclasses.replace(checkpoint.codec, **changes))


def assert_same(ours: Action, theirs: Action) -> None:
    assert ours.tokens is not None
    assert ours.confidence is not None
    assert np.array_equal(ours.values, theirs.values)
    assert np.array_equal(ours.tokens, np.asarray(theirs.tokens))
    np.testing.assert_allclose(ours.confidence, np.asarray(theirs.confidence), rtol=1e-4, atol=1e-6)


def test_it_is_a_policy_with_the_conventional_words(policy: LocalPolicy) -> None:
    assert isinstance(policy, Policy)
    assert policy.spec.names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert policy.reset() is None


def test_an_action_has_the_promised_shapes_types_and_phases(
    policy: LocalPolicy, observations: list[Observation]
) -> None:
    action = policy.act(observations[1])
    assert action.tokens is not None
    assert action.confidence is not None
    assert action.values.shape == action.tokens.shape == action.confidence.shape == (3, 7)
    assert (action.values.dtype, action.tokens.dtype) == (np.float64, np.int64)
    assert ((action.confidence >= 0) & (action.confidence <= 1)).all()
    assert list(action.timing_ms) == PHASES
    parts = sum(action.timing_ms[phase] for phase in PHASES[:-1])
    assert 0 < parts <= action.timing_ms["total"] * 1.001


def test_values_are_the_decoded_tokens(policy: LocalPolicy, observations: list[Observation]) -> None:
    action = policy.act(observations[0])
    assert action.tokens is not None
    assert np.array_equal(action.values, policy.codec.decode_tokens(action.tokens))


def test_a_ragged_batch_acts_as_each_observation_alone(policy: LocalPolicy, observations: list[Observation]) -> None:
    together = policy.act_batch(observations)
    assert len({len(policy.codec.encode_prompt(each.instruction)) for each in observations}) == 3
    for observation, action in zip(observations, together, strict=True):
        assert_same(action, policy.act(observation))
    assert policy.act_batch([]) == []


def test_the_image_and_the_instruction_matter(policy: LocalPolicy, observations: list[Observation]) -> None:
    first, second, _ = observations
    tokens = [
        policy.act(Observation(image, instruction)).tokens
        for image, instruction in (
            (first.image, first.instruction),
            (second.image, first.instruction),
            (first.image, second.instruction),
        )
    ]
    assert not np.array_equal(np.asarray(tokens[0]), np.asarray(tokens[1]))
    assert not np.array_equal(np.asarray(tokens[0]), np.asarray(tokens[2]))


def test_many_instructions_do_not_pile_up(policy: LocalPolicy, observations: list[Observation]) -> None:
    first = policy.act(observations[0])
    for number in range(300):
        policy._prompt(f"go {number}")
    assert len(policy._prompts) <= 256
    assert_same(policy.act(observations[0]), first)


def test_the_published_action_comes_out(shared: Path) -> None:
    folder = shared / "golden" / "tiny"
    stored = load_file(folder / "golden.safetensors")
    image = np.asarray(Image.open(folder / "image.png").convert("RGB"))
    policy = load_policy(folder)
    # The rendered prompt does not end in token 29871, which the published code then appends.
    assert policy.codec.encode_prompt("Put the spoon on the towel") == stored["generated"][0, :-7].tolist()
    for action in policy.act_batch([Observation(image, text) for text in ("put the spoon on the towel", "go")])[:1]:
        assert action.tokens is not None
        assert action.tokens[0].tolist() == stored["generated"][0, -7:].tolist()
        assert action.values[0].tolist() == stored["action"].tolist()
    assert policy.act(Observation(image, "put the spoon on the towel")).values[0].tolist() == stored["action"].tolist()


def test_a_saved_policy_acts_the_same(checkpoint: Checkpoint, observations: list[Observation], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "saved", checkpoint)
    loaded = load_policy(tmp_path / "saved", device="cpu")
    assert_same(loaded.act(observations[2]), LocalPolicy(checkpoint).act(observations[2]))


def test_the_dtype_is_the_wanted_one(checkpoint: Checkpoint, observations: list[Observation], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "half", checkpoint, torch.bfloat16)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        policy = load_policy(tmp_path / "half", dtype=name, device="cpu")
        assert {tensor.dtype for tensor in policy.model.state_dict().values()} == {dtype}
        assert np.isfinite(policy.act(observations[0]).values).all()


def test_stored_precision_is_kept_only_where_it_is_native() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert native_dtype(torch.float32, cpu) == torch.float32
    assert native_dtype(torch.float16, cpu) == torch.float32
    assert native_dtype(torch.float16, gpu) == torch.float16
    assert native_dtype(torch.float64, gpu) == torch.float32
    assert native_dtype(torch.float8_e4m3fn, gpu) == torch.float32


def test_weights_of_mixed_precision_become_one(
    checkpoint: Checkpoint, observations: list[Observation], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "mixed", checkpoint)
    weights = load_file(tmp_path / "mixed" / "model.safetensors")
    weights["language_model.lm_head.weight"] = weights["language_model.lm_head.weight"].half()
    save_file(weights, tmp_path / "mixed" / "model.safetensors")
    assert np.isfinite(load_policy(tmp_path / "mixed", device="cpu").act(observations[0]).values).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": "bridge"}, "unknown statistics 'bridge'; known are toy"),
        ({"quantize": "int4"}, "quantize='int4' is not available in this version; leave it out to run unquantised"),
        ({"dtype": "fp23"}, "unknown dtype 'fp23'; did you mean 'fp32'"),
        ({"device": "abacus"}, "the device 'abacus' cannot be used here"),
    ],
)
def test_an_option_that_does_not_exist_is_named(golden: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_policy(golden / "micro", **options)  # pyright: ignore[reportArgumentType]


def test_several_statistics_need_a_name_which_decides_what_actions_mean(
    checkpoint: Checkpoint, observations: list[Observation], tmp_path: Path
) -> None:
    toy = checkpoint.codec.statistics["toy"]
    fields = {field.name: getattr(toy.action, field.name)[:4] for field in dataclasses.fields(toy.action)}
    short = dataclasses.replace(toy, action=type(toy.action)(**fields))
    save_checkpoint(tmp_path / "two", with_codec(checkpoint, statistics={"toy": toy, "short": short}))
    with pytest.raises(UsageError, match="there are 2 sets of statistics, so one must be named; known are short, toy"):
        load_policy(tmp_path / "two")
    for name, dim in (("toy", 7), ("short", 4)):
        policy = load_policy(tmp_path / "two", statistics=name)
        assert policy.spec.dim == dim
        assert policy.act(observations[0]).values.shape == (3, dim)


def test_without_statistics_a_policy_loads_and_says_so_when_it_must_act(
    checkpoint: Checkpoint, observations: list[Observation], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    save_checkpoint(bare, with_codec(checkpoint, statistics={}))
    policy = load_policy(bare)
    with pytest.raises(CheckpointError, match=r"the number of action dimensions is unknown: .* add dataset_statistics"):
        policy.act(observations[0])
    with pytest.raises(UsageError, match="unknown statistics 'toy'; known are none"):
        load_policy(bare, statistics="toy")
    known = LocalPolicy(with_codec(checkpoint, statistics={}, action=LocalPolicy(checkpoint).spec))
    with pytest.raises(CheckpointError, match="the checkpoint has no statistics, so its tokens cannot be turned into"):
        known.act(observations[0])


def test_without_a_tokenizer_a_policy_loads_and_says_so_when_it_must_read(golden: Path) -> None:
    policy = load_policy(golden / "micro")
    assert policy.spec.dim == 7
    with pytest.raises(CheckpointError, match="the checkpoint has no tokenizer, so it cannot read instructions"):
        policy.act(Observation(np.zeros((8, 8, 3), np.uint8), "go"))


@pytest.mark.parametrize("instruction", ["", "  \n"])
def test_an_empty_instruction_never_reaches_the_policy(instruction: str) -> None:
    with pytest.raises(InputError, match="the instruction is empty"):
        Observation(np.zeros((8, 8, 3), np.uint8), instruction)

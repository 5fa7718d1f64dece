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
from openvla.infer.engine import Limits
from openvla.infer.loading import native_dtype
from openvla.infer.policy import LocalPolicy, as_published, load_policy
from openvla.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from openvla.spec import Action, Observation, Policy

PHASES = ["preprocess", "vision", "prefill", "decode", "post", "total"]
COUNTS = ["passes", "tokens_per_pass"]


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
    assert list(action.timing_ms) == PHASES + COUNTS
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
        policy.prompt(f"go {number}")
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
    with pytest.warns(UserWarning, match="stores its weights as float16 and float32"):
        policy = load_policy(tmp_path / "mixed", device="cpu")
    assert np.isfinite(policy.act(observations[0]).values).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": "bridge"}, "unknown statistics 'bridge'; known are toy"),
        ({"quantize": "int5"}, "unknown precision 'int5'; did you mean 'int8' or 'int4'"),
        ({"quantize": "fp8", "device": "cpu"}, "quantize='fp8' runs on cuda, not on cpu; choose 'int8' or 'int4'"),
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


def test_only_action_bins_are_decoded_unless_the_published_way_is_asked_for(
    checkpoint: Checkpoint, observations: list[Observation]
) -> None:
    def all_bins(policy: LocalPolicy) -> bool:
        tokens = np.stack([np.asarray(each.tokens) for each in policy.act_batch(observations)])
        return bool(checkpoint.codec.actions.is_action(tokens).all())

    assert all_bins(LocalPolicy(checkpoint))
    assert not all_bins(LocalPolicy(checkpoint, decoding="published"))


def test_the_published_way_takes_the_end_of_prompt_and_answer_where_the_stop_token_comes_early() -> None:
    tokens, chosen = np.array([40, 41, 2, 43]), np.array([0.5, 0.6, 0.7, 0.8], np.float32)
    ids, probabilities = as_published([1, 10, 11], tokens, chosen, eos=2)
    assert ids.tolist() == [11, 40, 41, 2]
    assert np.array_equal(probabilities, [0, *chosen[:3]])
    ids, probabilities = as_published([1, 10, 11], tokens, chosen, eos=3)
    assert (ids.tolist(), probabilities.tolist()) == (tokens.tolist(), chosen.tolist())


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_speculation_changes_nothing_but_the_passes(
    checkpoint: Checkpoint, observations: list[Observation], tmp_path: Path, quantize: str | None
) -> None:
    save_checkpoint(tmp_path / "saved", checkpoint)
    plain, guessing = (
        load_policy(tmp_path / "saved", device="cpu", quantize=quantize, speculate=each) for each in (False, True)
    )
    for observation in [observations[0]] * 3 + [observations[1], observations[0], observations[1]]:
        wanted, found = plain.act(observation), guessing.act(observation)
        assert np.array_equal(np.asarray(wanted.tokens), np.asarray(found.tokens))
        assert wanted.timing_ms["passes"] == 21
    found = guessing.act(observations[1])
    assert (found.timing_ms["passes"], found.timing_ms["tokens_per_pass"]) == (1, 21)
    guessing.reset()
    assert guessing.act(observations[0]).timing_ms["passes"] == 21


def test_a_batch_beyond_the_limit_is_refused_and_the_policy_goes_on(
    checkpoint: Checkpoint, observations: list[Observation]
) -> None:
    policy = LocalPolicy(checkpoint, limits=Limits(rows=2, prompt=64))
    with pytest.raises(InputError, match="the batch has 3 observations, and the policy was loaded for at most 2"):
        policy.act_batch(observations)
    with pytest.raises(InputError, match="tokens, and the policy was loaded for at most 64; shorten the instruction"):
        policy.act(Observation(observations[0].image, "go " * 100))
    assert len(policy.act_batch([observations[0], observations[0]])) == 2


def random_observations(count: int, size: int) -> list[Observation]:
    random = np.random.default_rng(5)
    texts = ("open the drawer", "close the door", "turn the faucet to the left")
    return [Observation(random.integers(0, 256, (size, size, 3), np.uint8), texts[n % 3]) for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["nano", "tiny"])
def test_tokens_equal_the_plain_modules_on_200_observations(shared: Path, source: str) -> None:
    place = source if source == "nano" else shared / "golden" / "tiny"
    plain = load_checkpoint(place, dtype=torch.float32)
    policy = load_policy(place, dtype="fp32", device="cpu")
    count, bins = plain.codec.chunk * policy.spec.dim, plain.codec.actions.token_range
    for observation in random_observations(200, plain.codec.images.size):
        ids = torch.tensor([plain.codec.encode_prompt(observation.instruction)])
        pixels = torch.from_numpy(plain.codec.encode_image(observation.image))[None]
        with torch.inference_mode():
            for _ in range(count):
                scores = plain.model(ids, pixels).logits[:, -1:, bins.start : bins.stop]
                ids = torch.cat([ids, scores.argmax(-1) + bins.start], dim=1)
        assert np.asarray(policy.act(observation).tokens).reshape(-1).tolist() == ids[0, -count:].tolist()


@pytest.mark.slow
def test_memory_after_many_actions_is_that_after_a_few() -> None:
    policy, resident = load_policy("nano", device="cpu"), list[int]()
    for number, observation in enumerate(random_observations(2000, 112)):
        policy.act(observation)
        if number in (49, 1999):
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]))
    assert resident[1] <= resident[0] * 1.01

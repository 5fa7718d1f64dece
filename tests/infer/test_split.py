from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from openvla.errors import CheckpointError, InputError, UsageError
from openvla.infer.policy import LocalPolicy, load_policy
from openvla.infer.split import EdgeEncoder, cuts_of, load_edge, save_edge
from openvla.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from openvla.serve.features.features import EncodedObservation, from_bf16, quantise, to_bf16
from openvla.spec import Action, Observation

STAND_IN = np.zeros((1, 1, 3), np.uint8)


@pytest.fixture(scope="module")
def directory(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("split") / "whole"
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="module")
def policy(directory: Path) -> LocalPolicy:
    return load_policy(directory, dtype="bf16", speculate=False)


@pytest.fixture(scope="module")
def edge(directory: Path) -> EdgeEncoder:
    return load_edge(directory, dtype="bf16")


def encoded(edge: EdgeEncoder, observation: Observation, cut: str) -> EncodedObservation:
    return EncodedObservation(STAND_IN, observation.instruction, features=edge.encode(observation, cut), cut=cut)


def answers(policy: LocalPolicy, observations: Sequence[Observation]) -> list[Action]:
    stepper, found = policy.stepper(len(observations)), dict[object, object]()
    for key, observation in enumerate(observations):
        stepper.admit(key, observation)
    while len(found) < len(observations):
        found.update(stepper.step())
    actions = [found[key] for key in range(len(observations))]
    return [action for action in actions if isinstance(action, Action)]


@pytest.mark.parametrize("cut", ["encoders", "projector"])
def test_in_bfloat16_the_divided_policy_acts_as_the_undivided_one_exactly(
    policy: LocalPolicy, edge: EdgeEncoder, observations: list[Observation], cut: str
) -> None:
    for observation in observations:
        (divided,) = answers(policy, [encoded(edge, observation, cut)])
        whole = policy.act(observation)
        assert np.array_equal(np.asarray(divided.tokens), np.asarray(whole.tokens))
        assert np.array_equal(divided.values, whole.values)
        assert np.array_equal(np.asarray(divided.confidence), np.asarray(whole.confidence))


def test_pictures_and_features_of_every_cut_share_a_batch(
    policy: LocalPolicy, edge: EdgeEncoder, observations: list[Observation]
) -> None:
    first, second, third = observations
    mixed = [encoded(edge, first, "projector"), second, encoded(edge, third, "encoders"), first]
    for action, observation in zip(answers(policy, mixed), [first, second, third, first], strict=True):
        assert np.array_equal(action.values, policy.act(observation).values)


def test_int8_errs_by_little(policy: LocalPolicy, edge: EdgeEncoder, observations: list[Observation]) -> None:
    exact = edge.encode(observations[0], "projector")
    steps, scales = quantise(from_bf16(exact))
    rounded = to_bf16(steps * scales[:, None])
    error = np.linalg.norm(from_bf16(rounded) - from_bf16(exact)) / np.linalg.norm(from_bf16(exact))
    assert error < 0.01


def test_both_sides_name_the_same_weights(policy: LocalPolicy, edge: EdgeEncoder, directory: Path) -> None:
    assert edge.cuts == cuts_of(policy.model)
    assert edge.cuts == cuts_of(load_policy(directory, dtype="fp32").model)
    assert {name: (cut.tokens, cut.channels) for name, cut in edge.cuts.items()} == {
        "encoders": (policy.model.config.num_patches, policy.model.config.vision_dim),
        "projector": (policy.model.config.num_patches, policy.model.config.decoder.hidden_size),
    }


@pytest.mark.parametrize("cut", ["encoders", "projector"])
def test_the_edge_part_alone_sees_what_the_whole_sees(
    directory: Path, edge: EdgeEncoder, observations: list[Observation], tmp_path: Path, cut: str
) -> None:
    save_edge(directory, tmp_path / "edge", cut=cut)
    part = load_edge(tmp_path / "edge", dtype="bf16")
    assert set(part.cuts) == ({"encoders"} if cut == "encoders" else {"encoders", "projector"})
    for name in part.cuts:
        assert part.cuts[name] == edge.cuts[name]
        assert np.array_equal(part.encode(observations[0], name), edge.encode(observations[0], name))
    sizes = [(tmp_path / "edge" / "model.safetensors"), directory / "model.safetensors"]
    assert sizes[0].stat().st_size < sizes[1].stat().st_size


def test_an_edge_part_of_encoders_cannot_project(
    directory: Path, observations: list[Observation], tmp_path: Path
) -> None:
    save_edge(directory, tmp_path / "edge", cut="encoders")
    with pytest.raises(InputError, match="cannot be cut at 'projector', only at encoders"):
        load_edge(tmp_path / "edge").encode(observations[0], "projector")
    with pytest.raises(CheckpointError, match="is an edge part without projector; give the whole checkpoint"):
        save_edge(tmp_path / "edge", tmp_path / "more")


def test_what_cannot_be_split_is_told_and_leaves_nothing(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown cut 'proyector'"):
        save_edge(directory, tmp_path / "edge", cut="proyector")
    with pytest.raises(CheckpointError, match="nowhere"):
        save_edge(tmp_path / "nowhere", tmp_path / "edge")
    assert not list(tmp_path.iterdir())
    save_edge(directory, tmp_path / "edge")
    with pytest.raises(CheckpointError, match="exists"):
        save_edge(directory, tmp_path / "edge")


def test_a_damaged_edge_part_is_told(directory: Path, tmp_path: Path) -> None:
    save_edge(directory, tmp_path / "edge", cut="encoders")
    config = tmp_path / "edge" / "config.json"
    document = json.loads(config.read_text())
    config.write_text(json.dumps(document | {"edge": {"cut": "projector"}}))
    with pytest.raises(CheckpointError, match="lacks the tensor 'projector"):
        load_edge(tmp_path / "edge")
    config.write_text(json.dumps(document | {"edge": {"cut": "middle"}}))
    with pytest.raises(UsageError, match="unknown cut 'middle'"):
        load_edge(tmp_path / "edge")


def test_an_edge_part_is_no_checkpoint_to_act_with_or_to_train(directory: Path, tmp_path: Path) -> None:
    save_edge(directory, tmp_path / "edge")
    for load in (load_policy, load_checkpoint):
        with pytest.raises(CheckpointError, match=r"is an edge part, which has no decoder .*; give the check"):
            load(tmp_path / "edge")

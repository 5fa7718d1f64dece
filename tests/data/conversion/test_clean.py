from __future__ import annotations

import numpy as np
import pytest

from openvla.data.conversion.clean import CleanedSource, noop_steps
from openvla.data.conversion.convert import Conversion, convert
from openvla.data.episode import build_episode
from openvla.data.formats.detect import open_dataset
from openvla.data.formats.iterator import IteratorSource
from openvla.errors import UsageError


def make(actions, words="go"):
    count = len(actions)
    last = np.arange(count) == count - 1
    return build_episode(
        {
            "observation|image": np.arange(count * 192, dtype=np.uint8).reshape(count, 8, 8, 3),
            "observation|state": np.arange(count, dtype=np.float32)[:, None],
            "action": np.asarray(actions, np.float32),
            "language_instruction": [words] * count,
            "is_first": np.arange(count) == 0,
            "is_last": last,
            "is_terminal": last,
            "reward": last.astype(np.float32),
            "timestamp": np.arange(count) / 10,
        },
        image_format="png",
    )


def cleaned(episodes, *fixes, hz=10.0):
    return list(CleanedSource(IteratorSource(episodes), fixes, hz).episodes())


def slow_noops(actions):
    """The published rule, step by step: compared with the last action that was kept."""
    kept = None
    found = []
    for action in actions:
        idle = np.linalg.norm(action[:-1]) < 1e-4 and (kept is None or action[-1] == kept[-1])
        kept = kept if idle else action
        found.append(bool(idle))
    return found


def test_noops_are_those_of_the_published_filter():
    random = np.random.default_rng(0)
    actions = random.choice([0.0, 0.0, 0.00005, 1.0], (200, 3)) * [1, 1, 0] + random.choice([0, 1], (200, 1)) * [
        0,
        0,
        1,
    ]
    assert noop_steps(actions).tolist() == slow_noops(actions)


def test_without_noops_the_marks_and_times_are_right():
    (episode,) = cleaned([make([[0, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0], [2, 0, 0], [0, 0, 0]])], "strip-noops")
    assert episode.steps["action"].tolist() == [[1, 0, 1], [0, 0, 0], [2, 0, 0]]
    assert episode.steps["observation|state"].ravel().tolist() == [1, 3, 4]
    assert episode.steps["is_first"].tolist() == [True, False, False]
    assert episode.steps["is_last"].tolist() == episode.steps["is_terminal"].tolist() == [False, False, True]
    assert episode.steps["reward"].tolist() == [0, 0, 1]
    assert episode.steps["timestamp"].tolist() == pytest.approx([0, 0.1, 0.2])
    assert episode.image("observation|image", 0)[0, 0, 0] == 192


def test_resampling_adds_up_motion_and_keeps_what_was_seen_first():
    (episode,) = cleaned([make([[n, 1, n % 2] for n in range(5)])], "resample=5hz")
    assert episode.steps["action"].tolist() == [[1, 2, 1], [5, 2, 1], [4, 1, 0]]
    assert episode.steps["observation|state"].ravel().tolist() == [0, 2, 4]
    assert episode.steps["is_last"].tolist() == [False, False, True]
    assert episode.steps["timestamp"].tolist() == pytest.approx([0, 0.2, 0.4])
    (episode,) = cleaned([make([[n, 1, n % 2] for n in range(5)])], "resample-absolute=5")
    assert episode.steps["action"].tolist() == [[1, 1, 1], [3, 1, 1], [4, 1, 0]]


def test_total_motion_survives_any_rate():
    actions = np.random.default_rng(0).normal(size=(37, 4))
    for hz in (9, 7.5, 3, 0.7):
        (episode,) = cleaned([make(actions)], f"resample={hz}hz")
        assert len(episode) == int(np.floor(36 * hz / 10 + 1e-6)) + 1
        assert episode.steps["action"][:, :3].sum(axis=0) == pytest.approx(actions[:, :3].sum(axis=0), abs=1e-5)


def test_nan_steps_and_unlabelled_episodes_go():
    episodes = [make([[1, 0, 0], [np.nan, 0, 0], [2, 0, 0]]), make([[1, 1, 1]], words=" "), make([[np.inf, 0, 0]])]
    assert [len(e) for e in cleaned(episodes, "drop-nan", "drop-unlabelled")] == [2]
    labelled = cleaned(episodes, "label=open the door, slowly")
    assert [e.steps["language_instruction"][0] for e in labelled] == ["go", "open the door, slowly", "go"]


def test_steps_and_episodes_go_from_data_without_an_action_too():
    episodes = [
        build_episode({"observation|state": np.asarray(state, np.float32), "language_instruction": [words] * 2})
        for state, words in (([[1], [np.nan]], "go"), ([[1], [2]], " "))
    ]
    assert [len(episode) for episode in cleaned(episodes, "drop-nan", "drop-unlabelled")] == [1]


@pytest.mark.parametrize(("before", "after"), [([0.0, 1.0], [1.0, 0.0]), ([-1.0, 1.0], [1.0, -1.0])])
def test_the_gripper_turns_round_within_its_range(before, after):
    episodes = [make([[0, 0, before[1]]] * 2), make([[0, 0, value] for value in before])]
    first, second = cleaned(episodes, "invert-gripper")
    assert first.steps["action"][:, 2].tolist() == [after[1]] * 2
    assert second.steps["action"][:, 2].tolist() == after


def test_a_cleaned_copy_is_written_and_checked(tmp_path):
    source = CleanedSource(
        IteratorSource([make([[0, 0, 1], [1, 0, 1]]), make([[1, 1, 1]], words="")]), ["strip-noops", "drop-unlabelled"]
    )
    done = convert(source, tmp_path / "out", Conversion("rlds"))
    (episode,) = open_dataset(done.directory)
    assert episode.steps["action"].tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(
    ("fix", "words"),
    [
        ("strip-nops", "unknown fix 'strip-nops'; did you mean 'strip-noops'"),
        ("resample=fast", "the rate 'fast' is no number above 0"),
        ("resample=20hz", "cannot resample 10 Hz to 20 Hz"),
        ("drop-nan=3", "takes no value, not '3'"),
        ("label=", "needs words"),
    ],
)
def test_a_wrong_fix_is_refused_before_anything_is_read(fix, words):
    with pytest.raises(UsageError, match=words):
        CleanedSource(IteratorSource([]), [fix], 10.0)


def test_resampling_needs_a_rate():
    with pytest.raises(UsageError, match="do not say their control rate, which resampling needs; give --hz"):
        CleanedSource(IteratorSource([]), ["resample=5hz"])

from __future__ import annotations

import numpy as np
import pytest

from openvla.data.doctor.examine import diagnose
from openvla.data.doctor.standardised import standardised
from openvla.data.episode import Episode, build_episode
from openvla.data.formats.iterator import IteratorSource
from openvla.data.registry.record import DataRecord, end_effector
from openvla.errors import DataError


def drop_first(steps):
    return {name: values[1:] for name, values in steps.items()}


RAW = DataRecord(
    images={"primary": "observation|front"},
    columns=("action|motion", "action|grip"),
    language="observation|said",
    after=drop_first,
    action=end_effector(control_hz=5),
    name="raw",
)


def raw(steps: int = 6) -> Episode:
    """An episode without a plain `action`, whose second camera is the one that training looks at."""
    random = np.random.default_rng(steps)
    return build_episode(
        {
            "observation|back": np.zeros((steps, 16, 16, 3), np.uint8),
            "observation|front": random.integers(0, 256, (steps, 16, 24, 3), np.uint8),
            "observation|said": ["lift it"] * steps,
            "action|motion": random.normal(size=(steps, 6)),
            "action|grip": np.ones((steps, 1)),
        },
        image_format="png",
        source="episode 0",
    )


def test_the_record_says_action_words_and_camera() -> None:
    episode = raw()
    made = standardised(episode, RAW)
    assert len(made) == 5
    assert np.array_equal(made.steps["action"][:, :6], episode.steps["action|motion"][1:])
    assert made.steps["language_instruction"].tolist() == ["lift it"] * 5
    assert made.image_keys == ("observation|front", "observation|back")
    assert np.array_equal(made.image("observation|front", 0), episode.image("observation|front", 1))


def test_data_without_a_plain_action_are_examined_through_a_record() -> None:
    source = IteratorSource([raw(), raw(7)])
    with pytest.raises(DataError, match=r"has no action with one row of numbers per step; .* with --dataset"):
        diagnose(source)
    diagnosis = diagnose(source, record=RAW)
    assert (diagnosis.account.steps, diagnosis.control_hz) == (11, 5)
    assert [image.shape for image, _ in diagnosis.account.samples] == [(16, 24, 3)] * 2
    assert dict(diagnosis.account.spoken) == {"lift it": 2}


def test_what_the_record_names_and_the_data_lack_is_named() -> None:
    with pytest.raises(DataError, match="episode 0: these steps are not of 'other': they lack 'action'"):
        standardised(raw(), DataRecord(images={}, name="other"))
    wrist = DataRecord(images={"wrist": "observation|hand"}, columns=RAW.columns, language=RAW.language, name="wrist")
    with pytest.raises(DataError, match=r"episode 0: 'wrist': unknown image 'observation\|hand'"):
        standardised(raw(), wrist)
    with pytest.raises(DataError, match="episode 0: 'raw' keeps none of its 1 steps"):
        standardised(raw(1), RAW)

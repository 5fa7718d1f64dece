from __future__ import annotations

import numpy as np
import pytest

from openvla.data.episode import Episode, build_episode, demonstration_episode
from openvla.data.images.pixels import encode_image
from openvla.data.tfds.features import Features, Image, Sequence, Tensor, Text
from openvla.errors import DataError

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)


def test_plain_arrays_become_an_episode_with_its_description() -> None:
    episode = build_episode(
        {
            "observation|image": FRAMES,
            "observation|state": np.ones((3, 2)),
            "language_instruction": ["lift"] * 3,
            "is_first": [True, False, False],
        },
        {"task": "lift", "seed": 7, "corners": np.zeros((4, 2), np.int32)},
    )
    assert len(episode) == 3
    assert {name: leaf.feature for name, leaf in episode.features.steps.items()} == {
        "observation|image": Image((6, 8, 3), "jpeg"),
        "observation|state": Tensor((2,), "float32"),
        "language_instruction": Text(),
        "is_first": Tensor((), "bool"),
    }
    assert episode.features.steps["observation|state"].key == "steps/observation/state"
    assert (episode.metadata["task"], episode.metadata["seed"]) == ("lift", 7)
    assert episode.metadata["corners"].shape == (4, 2)
    assert repr(episode).startswith("Episode(episode, 3 steps of observation|image, observation|state")


def test_png_images_are_exact_and_jpeg_images_stay_encoded() -> None:
    exact = build_episode({"image": FRAMES}, image_format="png")
    np.testing.assert_array_equal(np.stack(list(exact.images("image"))), FRAMES)
    encoded = build_episode({"image": FRAMES})
    assert encoded.steps["image"][1] == encode_image(FRAMES[1], "jpeg", "test")
    assert encoded.image_keys == ("image",)
    np.testing.assert_array_equal(encoded.image("image", -1), encoded.image("image", 2))


def test_a_demonstration_has_the_recorded_names() -> None:
    episode = demonstration_episode(FRAMES, np.zeros((3, 4)), np.ones((3, 5)), "open it", task="door", seed=3)
    assert {name: (array.dtype, array.shape) for name, array in episode.steps.items() if array.dtype != object} == {
        "observation|proprio": (np.float32, (3, 5)),
        "action": (np.float32, (3, 4)),
        "is_first": (bool, (3,)),
        "is_last": (bool, (3,)),
        "is_terminal": (bool, (3,)),
        "reward": (np.float32, (3,)),
        "discount": (np.float32, (3,)),
    }
    assert episode.steps["language_instruction"].tolist() == ["open it"] * 3
    assert episode.steps["reward"].tolist() == [0, 0, 1]
    assert episode.steps["is_first"].tolist() == [True, False, False]
    assert episode.metadata == {"task": "door", "seed": 3}
    assert episode.image_keys == ("observation|image",)
    assert episode.source == "demonstration of door, seed 3"


def test_an_image_that_is_not_there_is_refused_by_name() -> None:
    episode = build_episode({"image_0": FRAMES}, source="here")
    with pytest.raises(DataError, match="here: unknown image 'image_1'; did you mean 'image_0'"):
        episode.image("image_1", 0)
    with pytest.raises(DataError, match="here: there is no step 3, the episode has 3"):
        episode.image("image_0", 3)


def test_an_image_that_does_not_decode_names_source_key_and_step() -> None:
    episode = build_episode({"image": FRAMES}, source="shard: record 2 at byte 9")
    episode.steps["image"][1] = b"\xff\xd8\xff damaged"
    with pytest.raises(DataError, match="shard: record 2 at byte 9: 'image' at step 1 is a damaged JPEG"):
        episode.image("image", 1)


def test_a_depth_map_is_no_camera_image() -> None:
    episode = build_episode({"depth": FRAMES})
    features = Features({"steps": Sequence({"depth": Image((6, 8, 1), "png", "uint16")})})
    depth = Episode(episode.steps, {}, "here", features)
    with pytest.raises(DataError, match="'depth' holds uint16 values, a depth map"):
        depth.image("depth", 0)


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ({"a": [1, 2], "b": [1]}, "one value of everything at every step; the lengths are {'a': 2, 'b': 1}"),
        ({"a": [[1], [1, 2]]}, "'a' has items of different shapes"),
        ({"a": [b"x"]}, r"'a' is \|S1 of shape \(1,\); give numbers, bools or str"),
        ({"a": [None]}, r"'a' is object of shape \(1,\)"),
        ({"a": 1.0}, r"'a' is float64 of shape \(\)"),
        ({}, "the lengths are {}"),
    ],
)
def test_values_without_a_time_axis_or_kind_are_refused(steps: dict[str, object], match: str) -> None:
    with pytest.raises(DataError, match=match):
        build_episode(steps)  # type: ignore[arg-type]

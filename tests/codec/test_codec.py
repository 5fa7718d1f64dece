from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from openvla.codec.actions import ActionTokenizer
from openvla.codec.batch import IGNORE_INDEX
from openvla.codec.codec import Codec
from openvla.codec.crop import center_crop
from openvla.codec.images import ImageTransform
from openvla.codec.pipelines import PIPELINES, evaluation_image
from openvla.codec.prompt import Prompt
from openvla.codec.statistics import DatasetStatistics, compute
from openvla.codec.tokenizer import train_tokenizer
from openvla.errors import CheckpointError, InputError, UsageError
from openvla.spec import ActionSpec

INSTRUCTION = "Open the drawer"
FRAME = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def statistics(dim: int) -> DatasetStatistics:
    return compute([(np.random.default_rng(1).normal(size=(50, dim)), None)])


@pytest.fixture(scope="module")
def small() -> Codec:
    """A codec with everything that codec.json can hold."""
    spec = ActionSpec(
        ("x", "y", "gripper"),
        ("m", "m", "1"),
        np.array([-1.0, -np.inf, 0.0]),
        np.array([1.0, np.inf, 1.0]),
        12.5,
        "open_is_low",
    )
    tokenizer = train_tokenizer([Prompt().render(INSTRUCTION)], 640)
    return Codec(
        actions=ActionTokenizer(640, 256),
        images=ImageTransform(
            "letterbox", (16,), ((0.5, 0.4, 0.3),), ((0.5, 0.6, 0.7),), (1, 2, 3), short_side=18, full_square=True
        ),
        prompt=Prompt("Do: {instruction}"),
        tokenizer=tokenizer,
        statistics={"lab": statistics(3)},
        action=spec,
        chunk=2,
        cameras=("front",),
        image_pipeline="evaluation",
        training_crop=0.9,
        suffix_token_id=tokenizer.token_to_id("▁"),
        pad_token_id=640,
    )


@pytest.fixture(scope="session")
def tiny(shared: Path) -> Codec:
    folder = shared / "golden" / "tiny"
    return Codec.from_published(json.loads((folder / "config.json").read_text()), folder)


@pytest.fixture(scope="session")
def tiny_golden(shared: Path) -> dict[str, Any]:
    return load_file(shared / "golden" / "tiny" / "golden.safetensors")


def test_prompt_and_labels_equal_the_published_ones(tiny: Codec, tiny_golden: dict[str, Any], shared: Path) -> None:
    image = np.asarray(Image.open(shared / "golden" / "tiny" / "image.png"))
    ids, labels = tiny_golden["input_ids"][0], tiny_golden["labels"][0]
    action = tiny.actions.decode(ids[-8:-1])[None]
    example = tiny.encode_example(image, "Put the spoon on the towel", action)
    # Ids 31744 and 31745 share a centre, so a decoded 31744 comes back as 31745.
    assert np.array_equal(example.input_ids, np.where(ids == 31744, 31745, ids))
    assert np.array_equal(example.labels, np.where(labels == 31744, 31745, labels))
    assert np.array_equal(example.pixel_values, tiny_golden["pixel_values"][0])


def test_the_published_tokens_give_the_published_action(tiny: Codec, tiny_golden: dict[str, Any]) -> None:
    values = tiny.decode_tokens(tiny_golden["generated"][:, -7:], "toy")
    assert values.dtype == np.float64
    assert np.array_equal(values[0], tiny_golden["action"])


@pytest.mark.parametrize("chunk", [1, 3])
def test_assembled_ids_equal_tokenising_the_published_training_string(tiny: Codec, shared: Path, chunk: int) -> None:
    codec, rng = replace(tiny, chunk=chunk), np.random.default_rng(0)
    tokenizer = codec.tokenizer
    assert tokenizer is not None
    for _ in range(100):
        action = rng.uniform(-1, 1, (chunk, 7)).astype(np.float32)
        example = codec.encode_example(FRAME, "pick up the remote", action)
        letters = tokenizer.decode(codec.actions.encode(action).reshape(-1).tolist())
        text = f"In: What action should the robot take to pick up the remote?\nOut: {letters}</s>"
        assert len(letters) == 7 * chunk
        assert example.input_ids.tolist() == tokenizer.encode(text).ids
        assert example.labels[-7 * chunk - 1 :].tolist() == example.input_ids[-7 * chunk - 1 :].tolist()
        assert set(example.labels[: -7 * chunk - 1].tolist()) == {IGNORE_INDEX}


def test_a_prompt_that_already_ends_in_the_suffix_gets_no_second_one(small: Codec) -> None:
    spaced = replace(small, prompt=Prompt("Do: {instruction} "))
    assert spaced.encode_prompt(INSTRUCTION) == small.encode_prompt(INSTRUCTION)
    assert small.encode_prompt(INSTRUCTION)[-1] == small.suffix_token_id
    assert replace(small, suffix_token_id=None).encode_prompt(INSTRUCTION) == small.encode_prompt(INSTRUCTION)[:-1]


def test_a_chunk_is_written_step_by_step(small: Codec) -> None:
    action = np.array([[-1.0, 0.0, 1.0], [0.5, -0.5, 0.25]])
    example = small.encode_example(FRAME, INSTRUCTION, action)
    assert example.labels[-7:-1].tolist() == [small.actions.encode(value) for value in action.reshape(-1)]
    assert example.labels[-1] == example.input_ids[-1] == small.eos_token_id
    assert example.pixel_values.shape == (3, 16, 16)


def test_tokens_decode_to_robot_units_within_half_a_bin(small: Codec) -> None:
    stats = small.statistics["lab"].action
    values = np.random.default_rng(2).uniform(stats.q01, stats.q99, (2, 3))
    normalised = 2 * (values - stats.q01) / (stats.q99 - stats.q01) - 1
    decoded = small.decode_tokens(small.actions.encode(normalised))
    assert (np.abs(decoded - values) <= (stats.q99 - stats.q01) / 2 / 255 + 1e-9).all()


def test_inference_takes_the_central_crop_and_training_does_not(small: Codec) -> None:
    own = replace(small, image_pipeline="processor")
    resized = own.images.resize(FRAME)
    assert np.array_equal(own.encode_image(FRAME), own.images.normalize([center_crop(resized, 0.9)]))
    whole = replace(own, training_crop=None).encode_image(FRAME)
    assert np.array_equal(own.encode_example(FRAME, INSTRUCTION, np.zeros((2, 3))).pixel_values, whole)


def test_images_come_to_size_in_use_as_they_did_in_training(small: Codec) -> None:
    squash = replace(small, images=replace(small.images, strategy="resize-naive"))
    pixels = {name: replace(squash, image_pipeline=name, training_crop=None).encode_image(FRAME) for name in PIPELINES}
    for name in PIPELINES:
        assert np.array_equal(pixels[name], squash.images(PIPELINES[name](FRAME, 16))), name
    assert len({array.tobytes() for array in pixels.values()}) == 3
    cropped = replace(squash, training_crop=0.9).encode_image(FRAME)
    assert np.array_equal(cropped, squash.images(evaluation_image(FRAME, 16, 0.9)))


@pytest.mark.parametrize(("pipeline", "trained"), [("evaluation", "training"), ("training", "training")])
def test_a_stored_frame_is_not_compressed_a_second_time(small: Codec, pipeline: str, trained: str) -> None:
    example = replace(small, image_pipeline=pipeline).encode_example(FRAME, INSTRUCTION, np.zeros((2, 3)))
    assert np.array_equal(example.pixel_values, small.images(PIPELINES[trained](FRAME, 16)))


def test_a_crop_is_taken_of_each_encoders_letterbox(small: Codec) -> None:
    constants = [(0.5, 0.4, 0.3), (0.1, 0.2, 0.3)]
    two = ImageTransform("letterbox", (16, 16), tuple(constants), ((0.5,) * 3,) * 2, fill_per_encoder=True)
    pixels = replace(small, images=two, image_pipeline="processor").encode_image(FRAME)
    one = [ImageTransform("letterbox", (16,), (mean,), ((0.5,) * 3,)) for mean in constants]
    alone = [replace(small, images=each, image_pipeline="processor").encode_image(FRAME) for each in one]
    assert np.array_equal(pixels, np.concatenate(alone))


def test_a_codec_file_of_an_earlier_version_means_what_it_meant(small: Codec, tmp_path: Path) -> None:
    small.save(tmp_path)
    table = json.loads((tmp_path / "codec.json").read_text())
    del table["image_pipeline"]
    for name in ("fill_per_encoder", "short_side", "full_square"):
        del table["images"][name]
    (tmp_path / "codec.json").write_text(json.dumps(table))
    plain = replace(small.images, short_side=None, full_square=False)
    assert_same(Codec.load(tmp_path), replace(small, image_pipeline="processor", images=plain))


def test_saving_and_loading_keeps_everything(small: Codec, tmp_path: Path) -> None:
    small.save(tmp_path)
    again = Codec.load(tmp_path)
    again.save(tmp_path)
    assert_same(again, small)
    assert_same(Codec.load(tmp_path), small)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "codec.json",
        "dataset_statistics.json",
        "tokenizer.json",
    ]


def test_saving_and_loading_keeps_a_published_codec(tiny: Codec, tmp_path: Path) -> None:
    tiny.save(tmp_path)
    assert_same(Codec.load(tmp_path), tiny)


def test_a_codec_crosses_process_borders(small: Codec) -> None:
    assert_same(pickle.loads(pickle.dumps(small)), small)


def assert_same(one: Codec, other: Codec) -> None:
    for name in ("actions", "images", "prompt", "chunk", "cameras", "image_pipeline", "training_crop"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("suffix_token_id", "bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(one, name) == getattr(other, name), name
    assert [spec.to_dict() for spec in one.statistics.values()] == [
        spec.to_dict() for spec in other.statistics.values()
    ]
    assert list(one.statistics) == list(other.statistics)
    assert one.encode_prompt(INSTRUCTION) == other.encode_prompt(INSTRUCTION)
    assert (one.action is None) == (other.action is None)
    for name in ("names", "units", "control_hz", "gripper"):
        assert getattr(one.spec, name) == getattr(other.spec, name)
    assert np.array_equal(one.spec.low, other.spec.low)
    assert np.array_equal(one.spec.high, other.spec.high)


def test_seven_unnamed_dimensions_follow_the_convention_and_others_are_numbered(small: Codec) -> None:
    unnamed = replace(small, action=None, statistics={"a": statistics(7), "b": statistics(7)})
    assert unnamed.spec.names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert replace(unnamed, statistics={"a": statistics(4)}).spec.names == (
        "action_0",
        "action_1",
        "action_2",
        "action_3",
    )


@pytest.mark.parametrize("dims", [(), (4, 7)])
def test_a_spec_nothing_tells_of_is_asked_for(small: Codec, dims: tuple[int, ...]) -> None:
    unknown = replace(small, action=None, statistics={f"{dim}": statistics(dim) for dim in dims})
    with pytest.raises(
        CheckpointError, match=f"the number of action dimensions is unknown: .* {len(dims)} sets of stat"
    ):
        _ = unknown.spec


def test_missing_parts_say_so_when_they_are_needed(small: Codec, tmp_path: Path) -> None:
    bare = replace(small, tokenizer=None, statistics={})
    bare.save(tmp_path)
    bare = Codec.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"the checkpoint has no tokenizer, .*; copy the tokenizer\.json"):
        bare.encode_prompt(INSTRUCTION)
    with pytest.raises(CheckpointError, match=r"the checkpoint has no statistics, .*; add dataset_statistics\.json"):
        bare.decode_tokens(np.zeros((2, 3), np.int64))


@pytest.mark.parametrize("shape", [(2, 7), (1, 3), (3,), (2, 3, 1)])
def test_an_action_of_another_shape_is_refused_with_both_shapes(small: Codec, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"the action has shape \(.*\), but the codec takes \(chunk 2, dim 3\)"):
        small.encode_example(FRAME, INSTRUCTION, np.zeros(shape))


def test_tokens_of_another_dimension_are_refused(small: Codec) -> None:
    with pytest.raises(InputError, match=r"values of shape \(2, 7\) do not fit statistics of 3 dimensions"):
        small.decode_tokens(np.full((2, 7), 600))


def test_an_unknown_statistics_key_lists_the_known_ones(small: Codec) -> None:
    with pytest.raises(UsageError, match="unknown statistics 'bridge_orig'; known are lab"):
        small.decode_tokens(np.full((2, 3), 600), "bridge_orig")


def test_a_tokenizer_of_another_model_is_noticed(small: Codec) -> None:
    with pytest.raises(CheckpointError, match="the tokenizer starts the prompt with id 1, not with bos_token_id 5"):
        replace(small, bos_token_id=5).encode_prompt(INSTRUCTION)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": ("front", "wrist")}, r"the codec names 2 cameras \(front, wrist\), but a model sees one image"),
        ({"cameras": ()}, r"the codec names 0 cameras \(none\)"),
        ({"chunk": 0}, "the chunk is 0; a policy predicts at least 1 action"),
        ({"training_crop": 1.5}, r"the training crop is 1\.5; it is an area above 0 and up to 1"),
        ({"eos_token_id": -1}, "eos_token_id is -1, which must not be negative nor"),
        ({"pad_token_id": 400}, r"pad_token_id is 400, which must not be .* one of the action tokens 384\.\.639"),
    ],
)
def test_values_that_no_codec_can_have_are_refused(small: Codec, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(small, **changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.pop("chunk"), r"codec\.json lacks the field 'chunk', which must be an integer"),
        (lambda table: table.update(chunk="two"), r"codec\.json: field 'chunk' is 'two', but must be an integer"),
        (lambda table: table.update(chunk=0), r"codec\.json: the chunk is 0"),
        (lambda table: table.update(chnuk=1), r"codec\.json: unknown field 'chnuk'; did you mean 'chunk'"),
        (lambda table: table.update(prompt="Do it"), r"codec\.json: the prompt template 'Do it' holds 0 times"),
        (lambda table: table["actions"].update(num_bins=None), r"codec\.json, actions: field 'num_bins' is None"),
        (lambda table: table["images"].update(means=[[1, 2]]), r"codec\.json, images: field 'means' is \[\[1, 2\]\]"),
        (
            lambda table: table.update(image_pipeline="train"),
            r"codec\.json: unknown image pipeline 'train'; did you mean",
        ),
        (lambda table: table.update(cameras=["a", "b"]), r"codec\.json: the codec names 2 cameras"),
        (lambda table: table["images"].update(full_square=1), r"images: field 'full_square' is 1, but must be true or"),
        (lambda table: table["images"].update(strategy="squash"), r"codec\.json: unknown resize strategy 'squash'"),
        (lambda table: table["action"].update(low=[0]), r"codec\.json: an action spec needs as many units"),
        (lambda table: table["action"].update(gripper="up"), r"codec\.json: gripper convention 'up' is not one of"),
    ],
)
def test_a_damaged_codec_file_is_named_with_its_field(
    small: Codec, tmp_path: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    small.save(tmp_path)
    table = json.loads((tmp_path / "codec.json").read_text())
    damage(table)
    (tmp_path / "codec.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=message):
        Codec.load(tmp_path)


def test_a_directory_that_cannot_be_written_is_named_and_stays_clean(small: Codec, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot write .*codec\.json: No such file or directory; choose another"):
        replace(small, tokenizer=None, statistics={}).save(tmp_path / "absent")
    (tmp_path / "codec.json").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*codec\.json"):
        replace(small, tokenizer=None, statistics={}).save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["codec.json"]


def test_stored_pixels_are_those_that_the_example_normalises(small: Codec) -> None:
    stored = small.encode_stored(FRAME, INSTRUCTION, np.zeros((2, 3)))
    example = small.encode_example(FRAME, INSTRUCTION, np.zeros((2, 3)))
    assert stored.pixel_values.dtype == np.uint8
    assert np.array_equal(small.images.normalize(list(stored.pixel_values)), example.pixel_values)
    assert np.array_equal(stored.input_ids, example.input_ids)


def test_a_remembered_prompt_is_not_changed_by_its_user(small: Codec) -> None:
    first = small.encode_prompt(INSTRUCTION)
    first.append(-1)
    assert small.encode_prompt(INSTRUCTION) == first[:-1]

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openvla.codec.actions import ActionTokenizer
from openvla.codec.images import ImageTransform
from openvla.errors import CheckpointError, DataError, UsageError
from openvla.model import checkpoint as room
from openvla.model.checkpoint import Checkpoint, load_checkpoint, new_checkpoint, save_checkpoint
from openvla.model.presets import PRESETS

Published = Callable[..., Path]


def test_what_was_saved_loads_bit_for_bit(checkpoint: Checkpoint, saved: Path) -> None:
    again = load_checkpoint(saved)
    ours, theirs = checkpoint.model.state_dict(), again.model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.config == checkpoint.config
    assert again.codec.images == checkpoint.codec.images
    assert again.codec.action_dim == 7
    assert not again.model.training
    assert {path.name for path in saved.iterdir()} == {
        "config.json", "model.safetensors", "codec.json", "dataset_statistics.json",
    }  # fmt: skip


def test_the_dtype_is_chosen_when_saving_and_when_loading(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "half", checkpoint, torch.bfloat16)
    half = load_checkpoint(tmp_path / "half").model
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}
    wide = load_checkpoint(tmp_path / "half", dtype=torch.float32).model
    weight, stored = wide.projector.fc1.weight, checkpoint.model.projector.fc1.weight
    assert torch.equal(weight, stored.bfloat16().float())
    assert stored.dtype == torch.float32


def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone(checkpoint: Checkpoint) -> None:
    state = torch.get_rng_state()
    again = new_checkpoint(PRESETS["micro"], checkpoint.codec, seed=0).model.state_dict()
    other = new_checkpoint(PRESETS["micro"], checkpoint.codec, seed=1).model.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    ours = checkpoint.model.state_dict()
    assert all(torch.equal(ours[name], again[name]) for name in ours)
    assert not torch.equal(ours["projector.fc1.weight"], other["projector.fc1.weight"])


def test_grouped_query_attention_and_one_encoder_load_from_the_published_format(published: Published) -> None:
    one = {
        "timm_model_ids": ["vit_so400m_patch14_siglip_224"],
        "image_sizes": [56],
        "timm_override_act_layers": [None],
        "arch_specifier": "no-align+gelu-mlp",
        "use_fused_vision_backbone": False,
        "llm_backbone_id": "vicuna-v15-7b",
        "encoders": [
            {"dim": 40, "depth": 4, "num_heads": 2, "mlp_dim": 149, "patch_size": 14, "prefix_tokens": 0,
             "layer_scale": False}
        ],
        "norm_stats": None,
    }  # fmt: skip
    loaded = load_checkpoint(published(one, num_key_value_heads=1))
    attention = loaded.model.language_model.model.layers[0].self_attn
    assert attention.k_proj.weight.shape == (16, 64)
    assert loaded.codec.images.sizes == (56,)
    assert loaded.codec.prompt.template.startswith("A chat between a curious user")
    assert loaded.codec.tokenizer is None
    assert dict(loaded.codec.statistics) == {}
    assert loaded.model(torch.tensor([[1, 5, 6]]), torch.randn(1, 3, 56, 56)).logits.shape == (1, 19, 384)


def test_a_published_checkpoint_saved_again_keeps_weights_and_codec(golden: Path, tmp_path: Path) -> None:
    first = load_checkpoint(golden / "micro")
    save_checkpoint(tmp_path / "again", first)
    second = load_checkpoint(tmp_path / "again")
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("images", "actions", "prompt", "chunk", "pad_token_id", "suffix_token_id"):
        assert getattr(second.codec, name) == getattr(first.codec, name)
    assert list(second.codec.statistics) == ["toy"]


@pytest.mark.parametrize("source", ["/no/such/place", "./nowhere", "no-such-policy", "a/b/c", ""])
def test_a_source_that_is_nothing_is_one_sentence(source: str) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint|is not a checkpoint"):
        load_checkpoint(source)


def test_a_directory_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no config\.json; give the directory that"):
        load_checkpoint(tmp_path)


def test_a_hub_id_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="there is no directory 'nobody/nothing', and no checkpoint of that name"):
        load_checkpoint("nobody/nothing")


def test_a_device_that_is_not_there_is_named(golden: Path) -> None:
    with pytest.raises(UsageError, match=r"the device 'abacus' cannot be used here \(.*\); try 'cpu'"):
        load_checkpoint(golden / "micro", device="abacus")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json is not JSON"),
        ("[]", r"config\.json holds a list"),
        ("{}", "lacks the field 'timm_model_ids'"),
    ],
)
def test_a_damaged_config_is_named(saved: Path, text: str, message: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize("size", [10**18, 10**30])
def test_sizes_beyond_any_memory_are_one_sentence(saved: Path, size: int) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["text_config"]["vocab_size"] = size
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: its sizes are beyond any memory"):
        load_checkpoint(saved)


def test_damaged_statistics_are_named(saved: Path) -> None:
    (saved / "dataset_statistics.json").write_text('{"toy": {"action": {"q01": [NaN]}}}')
    with pytest.raises(DataError, match=r"dataset_statistics\.json, dataset 'toy'"):
        load_checkpoint(saved)


def test_a_codec_of_another_model_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    codec = checkpoint.codec
    images = ImageTransform("resize-naive", (56, 56), codec.images.means, codec.images.stds)
    changed = [
        (dataclasses.replace(codec, images=images), r"images are prepared at \[56, 56\] px, .* take \[28, 28\]"),
        (dataclasses.replace(codec, actions=ActionTokenizer(2000)), "last action token is 1999, .* only 1600 rows"),
        (
            dataclasses.replace(codec, pad_token_id=32000),
            "the pad token is 32000, but the embedding has only 1600 rows",
        ),
    ]
    for number, (other, message) in enumerate(changed):
        save_checkpoint(tmp_path / str(number), dataclasses.replace(checkpoint, codec=other))
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / str(number))


def test_an_existing_directory_is_not_written_over(checkpoint: Checkpoint, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="saved exists already; remove it, or choose another directory"):
        save_checkpoint(saved, checkpoint)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full"), room.SafetensorError("disk full")])
def test_an_interrupted_save_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | type[BaseException]
) -> None:
    def fail(_weights: dict[str, Tensor], path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(room, "save_file", fail)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else CheckpointError
    with pytest.raises(expected, match=None if error is KeyboardInterrupt else "cannot write .*: disk full"):
        save_checkpoint(tmp_path / "runs" / "new", checkpoint)
    assert list(tmp_path.iterdir()) == []

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from openvla.codec.tokenizer import train_tokenizer
from openvla.errors import CheckpointError, UsageError
from openvla.model.assemble import assemble
from openvla.model.checkpoint import check_agreement, load_checkpoint, save_checkpoint
from openvla.model.presets import NANO_VOCAB, PRESETS
from openvla.model.source import open_source
from openvla.model.text_config import write_decoder
from openvla.nn.decoder import Decoder
from openvla.nn.vit import VisionTransformer

ROWS = NANO_VOCAB
Parts = tuple[Path, list[Path]]


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """A language model without a padding token, and two encoders, as published; all of `micro`'s sizes."""
    preset, place = PRESETS["micro"], tmp_path / "llm"
    place.mkdir()
    torch.manual_seed(3)
    decoder = Decoder(preset.model.decoder)
    weights = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:ROWS].clone()
    save_file(weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(write_decoder(preset.model.decoder) | {"vocab_size": ROWS}))
    tokenizer = train_tokenizer(["what is this"], NANO_VOCAB)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<PAD>"]
    (place / "tokenizer.json").write_text(json.dumps(content))
    files = [tmp_path / "dino.safetensors", tmp_path / "siglip.safetensors"]
    for path, encoder in zip(files, preset.model.encoders, strict=True):
        vit = {n.replace("scale_factor", "gamma"): t for n, t in VisionTransformer(encoder).state_dict().items()}
        save_file(vit, path)
    return place, files


def made(parts: Parts, seed: int = 7) -> dict[str, Tensor]:
    return assemble("micro", *parts, seed).model.state_dict()


def test_parts_keep_their_weights_and_the_projector_is_new(parts: Parts) -> None:
    weights, language = made(parts), load_file(parts[0] / "model.safetensors")
    dino, siglip = map(load_file, parts[1])
    assert torch.equal(weights["vision_backbone.featurizer.pos_embed"], dino["pos_embed"])
    assert torch.equal(weights["vision_backbone.featurizer.blocks.0.ls1.scale_factor"], dino["blocks.0.ls1.gamma"])
    assert torch.equal(weights["vision_backbone.fused_featurizer.pos_embed"], siglip["pos_embed"])
    for name in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
        assert torch.equal(weights[f"language_model.{name}"], language[name])
    assert not torch.equal(weights["projector.fc1.weight"], made(parts, seed=8)["projector.fc1.weight"])
    again = made(parts)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_the_vocabulary_grows_by_rows_of_the_published_spread(parts: Parts) -> None:
    weights, language = made(parts), load_file(parts[0] / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        table = weights[f"language_model.{name}"]
        assert torch.equal(table[:ROWS], language[name])
        assert float(table[ROWS:].std()) == pytest.approx(0.02, rel=0.1)


def test_a_vocabulary_that_is_larger_than_the_presets_shrinks(parts: Parts) -> None:
    place = parts[0] / "model.safetensors"
    language = load_file(place)
    name = "model.embed_tokens.weight"
    save_file(language | {name: torch.cat([language[name]] * 2)}, place)
    assert torch.equal(made(parts)[f"language_model.{name}"][:ROWS], language[name])


def test_the_tokenizer_gets_the_padding_token_and_the_checkpoint_saves_and_loads(parts: Parts, tmp_path: Path) -> None:
    checkpoint = assemble("micro", *parts, 7)
    codec = checkpoint.codec
    assert codec.tokenizer is not None
    assert codec.tokenizer.token_to_id("<PAD>") == codec.pad_token_id == NANO_VOCAB
    assert (codec.action, dict(codec.statistics), codec.image_pipeline) == (None, {}, "training")
    save_checkpoint(tmp_path / "saved", checkpoint)
    check_agreement(codec, open_source(tmp_path / "saved"))
    again = load_checkpoint(tmp_path / "saved")
    assert again.codec.encode_prompt("open it") == codec.encode_prompt("open it")


def test_a_tokenizer_that_ends_early_gets_the_tokens_of_published_training_by_their_names(parts: Parts) -> None:
    content = json.loads(train_tokenizer(["what is this"], NANO_VOCAB - 3).to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<PAD>"]
    (parts[0] / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = assemble("micro", *parts, 7).codec.tokenizer
    assert tokenizer is not None
    names = ["<|extra_0|>", "<|extra_1|>", "<|extra_2|>", "<PAD>"]
    assert [tokenizer.id_to_token(NANO_VOCAB - 3 + number) for number in range(4)] == names


def test_half_precision_parts_become_the_narrowest_type_that_holds_all(parts: Parts) -> None:
    place = parts[0] / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(place).items()}, place)
    assert {tensor.dtype for tensor in made(parts).values()} == {torch.float32}


def edit_config(parts: Parts, **changes: object) -> None:
    place = parts[0] / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


def without(parts: Parts, name: str) -> None:
    place = parts[0] / "model.safetensors"
    save_file({each: tensor for each, tensor in load_file(place).items() if each != name}, place)


def spoil(path: Path, name: str) -> None:
    weights = load_file(path)
    weights[name].view(-1)[0] = torch.nan
    save_file(weights, path)


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (
            lambda parts: edit_config(parts, hidden_size=64),
            "another language model than that of 'micro': its hidden_size",
        ),
        (lambda parts: edit_config(parts, rms_norm_eps=0.1), r"its rms_norm_eps is 0\.1, the preset's"),
        (lambda parts: (parts[0] / "tokenizer.json").unlink(), r"has no tokenizer\.json, which training on text needs"),
        (lambda parts: (parts[0] / "config.json").unlink(), r"is not a checkpoint: it has no config\.json"),
        (lambda parts: without(parts, "model.norm.weight"), r"lacks the tensor 'language_model\.model\.norm\.weight'"),
        (
            lambda parts: spoil(parts[0] / "model.safetensors", "model.norm.weight"),
            "llm: tensor 'language_model.* holds 1",
        ),
        (lambda parts: spoil(parts[1][0], "pos_embed"), "micro: tensor 'vision_backbone.* holds 1 values"),
        (lambda parts: parts[1].pop(), "needs the weights of 2 vision encoders"),
        (lambda parts: parts[1].reverse(), "it is another encoder|it holds another encoder"),
    ],
)
def test_parts_that_do_not_fit_are_named(parts: Parts, break_it: Callable[[Parts], Any], sentence: str) -> None:
    break_it(parts)
    with pytest.raises(CheckpointError, match=sentence):
        made(parts)


def test_an_unknown_preset_offers_the_nearest(parts: Parts) -> None:
    with pytest.raises(UsageError, match="did you mean 'micro'"):
        assemble("micr", *parts, 7)

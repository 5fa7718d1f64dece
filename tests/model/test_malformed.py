"""Damaged and hostile checkpoint directories: one CheckpointError each, no code runs, no conversion leaves a file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla.errors import CheckpointError
from openvla.model.checkpoint import load_checkpoint
from openvla.model.convert import convert
from openvla.model.locate import SHIPPED

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NAME = "projector.fc2.weight"


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Rewrite the weights."""

    def apply(directory: Path) -> None:
        weights = load_file(directory / WEIGHTS)
        change(weights)
        save_file(weights, directory / WEIGHTS)

    return apply


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Rewrite config.json."""

    def apply(directory: Path) -> None:
        document = json.loads((directory / "config.json").read_text())
        change(document)
        (directory / "config.json").write_text(json.dumps(document))

    return apply


def shard(change: Callable[[Path, dict[str, str]], Any]) -> Callable[[Path], None]:
    """Cut the weights into two files with an index, and change that."""

    def apply(directory: Path) -> None:
        weights = load_file(directory / WEIGHTS)
        (directory / WEIGHTS).unlink()
        places = {name: f"model-0000{1 + (name == NAME)}-of-00002.safetensors" for name in weights}
        for file in set(places.values()):
            save_file({name: weights[name] for name in weights if places[name] == file}, directory / file)
        change(directory, places)
        (directory / INDEX).write_text(json.dumps({"weight_map": places}))

    return apply


def native(payload: Any) -> Callable[[Path], None]:
    """Put the weights into a native run's file, beside `payload`."""

    def apply(directory: Path) -> None:
        (directory / WEIGHTS).unlink()
        (directory / "checkpoints").mkdir()
        torch.save(payload, directory / "checkpoints" / "latest-checkpoint.pt")

    return apply


def nan_at(index: int, value: float = float("nan")) -> Callable[[Path], None]:
    return edit(lambda weights: weights[NAME].view(-1).__setitem__(index, value))


def overlapping(directory: Path, places: dict[str, str]) -> None:
    first = sorted(set(places.values()))[0]
    weights = load_file(directory / first)
    save_file(weights | {NAME: torch.zeros(40, 40)}, directory / first)


def bin_payload(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    torch.save({NAME: Payload()}, directory / "pytorch_model.bin")


def loop(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).symlink_to(WEIGHTS)


def header(length: int) -> Callable[[Path], None]:
    return lambda directory: (directory / WEIGHTS).write_bytes(length.to_bytes(8, "little") + b"{}")


def truncate(directory: Path) -> None:
    with (directory / WEIGHTS).open("r+b") as file:
        file.truncate((directory / WEIGHTS).stat().st_size // 2)


def second(places: dict[str, str]) -> str:
    return places[NAME]


CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing shard": (shard(lambda d, p: (d / second(p)).unlink()), rf"places '{NAME}' in '.*', which is no file of"),
    "a truncated shard": (shard(lambda d, p: (d / second(p)).write_bytes(b"short")), "cannot read .*00002"),
    "a truncated file": (truncate, r"cannot read .*model\.safetensors \(its tensors end at byte"),
    "an empty file": (lambda d: (d / WEIGHTS).write_bytes(b""), "cannot read .*0 bytes"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), "has neither model.safetensors nor"),
    "integers": (edit(lambda w: w.update({NAME: w[NAME].to(torch.int32)})), rf"'{NAME}' is torch\.int32; weights are"),
    "float8": (edit(lambda w: w.update({NAME: w[NAME].to(torch.float8_e4m3fn)})), rf"'{NAME}' is torch\.float8"),
    "extra tensors": (edit(lambda w: w.update(rogue=torch.ones(1))), "holds 1 tensors .* such as 'rogue'"),
    "an absent tensor": (edit(lambda w: w.pop(NAME)), rf"lacks the tensor '{NAME}' of shape"),
    "another shape": (edit(lambda w: w.update({NAME: torch.ones(2, 3)})), rf"'{NAME}' has shape \[2, 3\]"),
    "another vocabulary": (
        config(lambda c: c["text_config"].update(vocab_size=999)),
        r"embed_tokens\.weight' has shape",
    ),
    "pickled code in .bin": (bin_payload, r"pytorch_model\.bin was refused unread"),
    "pickled code in .pt": (
        native({"model": {"projector": {"w": Payload()}}}),
        r"latest-checkpoint\.pt was refused unread",
    ),
    "a .pt of other things": (native({"model": {"projector": 3}}), "has no 'model' with parts of tensors"),
    "an index with a missing tensor": (
        shard(lambda _, p: p.pop(NAME)),
        r"lacks the tensor|which .* does not place there",
    ),
    "an index of more tensors": (shard(lambda _, p: p.update(rogue=second(p))), "lacks the tensor 'rogue' that"),
    "overlapping shards": (shard(overlapping), rf"holds the tensor '{NAME}', which .* does not place there"),
    "an index out of the directory": (shard(lambda _, p: p.update({NAME: "../x.safetensors"})), "which is no file of"),
    "an absolute path in the index": (shard(lambda _, p: p.update({NAME: "/etc/passwd"})), "which is no file of"),
    "a nul in the index": (shard(lambda _, p: p.update({NAME: "a\0b"})), "which is no file of"),
    "bad JSON": (lambda d: (d / "config.json").write_text("{"), r"config\.json is not JSON"),
    "a config that is a list": (lambda d: (d / "config.json").write_text("[]"), r"config\.json holds a list"),
    "a config in latin-1": (lambda d: (d / "config.json").write_bytes(b'{"a": "\xff"}'), r"config\.json is not JSON"),
    "no config": (lambda d: (d / "config.json").unlink(), r"it has no config\.json"),
    "an index of bad JSON": (shard(lambda _, p: p.update({NAME: 3})), rf"field '{NAME}' is 3, but must be text"),
    "one NaN": (nan_at(17), rf"tensor '{NAME}' holds 1 values that are not finite"),
    "one infinity": (nan_at(-1, float("-inf")), rf"tensor '{NAME}' holds 1 values that are not finite"),
    "a symlink loop": (loop, "has neither model.safetensors nor"),
    "a huge header": (header(2**60), "with a header of"),
    "negative sizes": (config(lambda c: c["text_config"].update(hidden_size=-64)), "hidden_size|sizes"),
    "a depth of text": (config(lambda c: c["text_config"].update(num_hidden_layers="3")), "num_hidden_layers"),
    "an unknown encoder": (config(lambda c: c.update(timm_model_ids=["vit_x", "vit_y"])), "vit_x"),
    "a processor of another size": (
        lambda d: (d / "preprocessor_config.json").write_text(
            (d / "preprocessor_config.json").read_text().replace("56", "224")
        ),
        r"images are prepared at \[224, 224\] px, but the encoders take \[56, 56\]",
    ),
    "a tokenizer of nothing": (
        lambda d: (d / "tokenizer.json").write_text("{}"),
        r"tokenizer\.json is not a tokenizer",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_directory_is_one_sentence_and_leaves_nothing(
    name: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    damage, message = CASES[name]
    directory = tmp_path / "bad"
    shutil.copytree(golden / "micro", directory)
    (directory / "golden.safetensors").unlink()
    damage(directory)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(directory)
    if name not in ("one NaN", "one infinity", "a processor of another size"):  # conversion copies values unread
        with pytest.raises(CheckpointError, match=message):
            convert(directory, tmp_path / "out", "hf")
        assert {path.name for path in tmp_path.iterdir()} == {"bad"}


def test_a_tokenizer_of_another_vocabulary_is_named(golden: Path, shared: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "micro", tmp_path / "bad")
    shutil.copy(shared / "golden" / "tiny" / "tokenizer.json", tmp_path / "bad" / "tokenizer.json")
    with pytest.raises(CheckpointError, match="the suffix token is 29871, but the embedding has only 384 rows"):
        load_checkpoint(tmp_path / "bad")


def test_a_tokenizer_without_the_action_tokens_is_named(shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "golden" / "tiny", tmp_path / "bad")
    (tmp_path / "bad").chmod(0o755)
    (tmp_path / "bad" / "tokenizer.json").unlink()
    shutil.copy(SHIPPED / "nano" / "tokenizer.json", tmp_path / "bad" / "tokenizer.json")
    with pytest.raises(
        CheckpointError, match=r"the ids of tokenizer\.json end at 1536, but those of the language model at 319"
    ):
        load_checkpoint(tmp_path / "bad")


def test_mixed_types_are_widened_and_said(saved: Path) -> None:
    edit(lambda w: w.update({NAME: w[NAME].half(), "projector.fc1.bias": w["projector.fc1.bias"].bfloat16()}))(saved)
    with pytest.warns(
        UserWarning, match="stores its weights as bfloat16 and float16 and float32; all are loaded as float32"
    ):
        model = load_checkpoint(saved).model
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert model(torch.tensor([[1, 5]]), torch.zeros(1, 6, 28, 28)).logits.isfinite().all()
    assert load_checkpoint(saved, dtype=torch.bfloat16).model.projector.fc1.bias.dtype == torch.bfloat16

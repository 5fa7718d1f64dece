from __future__ import annotations

import errno
import filecmp
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from openvla.errors import CheckpointError, UsageError
from openvla.model import convert as room
from openvla.model.checkpoint import load_checkpoint
from openvla.model.convert import convert


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in sorted(directory.glob("*.safetensors")) for name, t in load_file(file).items()}


@pytest.mark.parametrize("kind", ["published", "own"])
def test_there_and_back_is_byte_equal(kind: str, golden: Path, saved: Path, tmp_path: Path) -> None:
    source = golden / "micro" if kind == "published" else saved
    convert(source, tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "native", "prismatic")
    convert(tmp_path / "native", tmp_path / "back", "hf")
    names = ["model.safetensors", "preprocessor_config.json"]
    same, different, absent = filecmp.cmpfiles(tmp_path / "hf", tmp_path / "back", names, shallow=False)
    assert (sorted(same), different, absent) == (sorted(names), [], [])
    assert json.loads((tmp_path / "hf" / "config.json").read_text()) == json.loads(
        (tmp_path / "back" / "config.json").read_text()
    )
    original, copied = load_file(source / "model.safetensors"), weights(tmp_path / "back")
    assert original.keys() == copied.keys()
    for name, tensor in original.items():
        assert torch.equal(tensor, copied[name])
        assert tensor.dtype == copied[name].dtype


def test_what_passes_through_keeps_its_documents(golden: Path, tmp_path: Path) -> None:
    convert(golden / "micro", tmp_path / "hf", "hf")
    for name in ("config.json", "preprocessor_config.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (golden / "micro" / name).read_bytes()
    assert not (tmp_path / "hf" / "golden.safetensors").exists()


def test_unused_tensors_are_exported(golden: Path, tmp_path: Path) -> None:
    convert(golden / "micro", tmp_path / "native", "prismatic")
    tree = torch.load(tmp_path / "native" / "checkpoints" / "latest-checkpoint.pt", weights_only=True, mmap=True)
    names = set(tree["model"]["vision_backbone"])
    assert {
        "siglip_featurizer.attn_pool.latent",
        "dino_featurizer.norm.bias",
        "dino_featurizer.blocks.2.ls2.gamma",
    } <= names
    assert "projector.4.weight" in tree["model"]["projector"]
    assert "llm.lm_head.weight" in tree["model"]["llm_backbone"]


def test_a_checkpoint_of_ours_gets_what_the_published_classes_read(saved: Path, tmp_path: Path) -> None:
    done = convert(saved, tmp_path / "hf", "hf")
    written = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"config.json", "preprocessor_config.json", "generation_config.json", "dataset_statistics.json"} <= written
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert list(config["norm_stats"]) == ["toy"]
    assert config["torch_dtype"] == "float32"
    assert any("no tokenizer" in note for note in done.notes)


def test_tokenizer_files_come_along_or_from_elsewhere(shared: Path, golden: Path, tmp_path: Path) -> None:
    tiny = shared / "golden" / "tiny"
    convert(tiny, tmp_path / "hf", "hf")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (tiny / name).read_bytes()
    with pytest.raises(CheckpointError, match="holds no tokenizer files"):
        convert(tiny, tmp_path / "other", "hf", tokenizer=golden / "micro")
    assert not (tmp_path / "other").exists()


def test_tokenizer_documents_are_written_for_a_checkpoint_that_has_none(tmp_path: Path) -> None:
    convert("nano", tmp_path / "hf", "hf")
    settings = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "LlamaTokenizer"
    assert (settings["bos_token"], settings["pad_token"]) == ("<s>", "<PAD>")
    assert json.loads((tmp_path / "hf" / "added_tokens.json").read_text()) == {"<PAD>": 1536}
    assert isinstance(json.loads((tmp_path / "hf" / "tokenizer.json").read_text())["model"]["merges"][0], str)


def test_auto_classes_find_the_published_processor(saved: Path, tmp_path: Path) -> None:
    convert(saved, tmp_path / "hf", "hf")
    processor = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert processor["processor_class"] == "PrismaticProcessor"
    assert processor["auto_map"]["AutoProcessor"].endswith("processing_prismatic.PrismaticProcessor")


def test_shards_stay_below_their_limit_and_load_as_one(golden: Path, tmp_path: Path) -> None:
    convert(golden / "micro", tmp_path / "hf", "hf", shard_bytes=400_000)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert len(files) > 3
    assert max(sum(t.nbytes for t in load_file(file).values()) for file in files) <= 400_000
    assert set(index["weight_map"].values()) == {file.name for file in files}
    whole = load_checkpoint(golden / "micro").model.state_dict()
    parts = load_checkpoint(tmp_path / "hf").model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())


def test_types_and_epsilon_change_on_request(golden: Path, tmp_path: Path) -> None:
    convert(golden / "micro", tmp_path / "hf", "hf", dtype="bf16", rms_norm_eps=1e-5)
    again = load_checkpoint(tmp_path / "hf")
    assert {t.dtype for t in again.model.state_dict().values()} == {torch.bfloat16}
    assert again.config["torch_dtype"] == "bfloat16"
    assert again.model.config.decoder.rms_norm_eps == 1e-5


def test_the_epsilon_of_native_code_is_said(golden: Path, tmp_path: Path) -> None:
    done = convert(golden / "micro", tmp_path / "native", "prismatic")
    assert any("rms_norm_eps 1e-06 is kept" in note and "applies 1e-05" in note for note in done.notes)


def test_settings_that_do_not_exist_are_refused(golden: Path, tmp_path: Path) -> None:
    for settings, message in (({"dtype": "int3"}, "unknown dtype"), ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0")):
        with pytest.raises(UsageError, match=message):
            convert(golden / "micro", tmp_path / "x", "hf", **settings)
    with pytest.raises(UsageError, match="unknown format 'gguf'"):
        convert(golden / "micro", tmp_path / "x", "gguf")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(golden / "micro", tmp_path, "hf")


def test_a_disk_without_room_is_one_sentence(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(CheckpointError, match=r"the disk has 0\.0 GB free and the weights take 0\.0 GB"):
        convert(golden / "micro", tmp_path / "deep" / "x", "hf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["hf", "prismatic"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_nothing(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, error: BaseException
) -> None:
    def fail(path: Path, *_: Any) -> None:
        raise error

    monkeypatch.setattr(room, "write_weights" if to == "hf" else "write_torch", fail)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        convert(golden / "micro", tmp_path / "x", to)
    assert isinstance(error, KeyboardInterrupt) or "No space left on device" in str(caught.value)
    assert list(tmp_path.iterdir()) == []

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from openvla.errors import CheckpointError
from openvla.model.lazy import StoredTensor
from openvla.model.torch_file import flatten, read_torch, write_torch


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def tree() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "model": {
            "llm": OrderedDict(w=torch.randn(3, 4, dtype=torch.bfloat16), n=torch.randn(5)),
            "vision": {"transposed": torch.randn(4, 6).T, "parameter": nn.Parameter(torch.ones(3)), "e": torch.ones(0)},
        },
        "optimizer": {"state": {0: torch.ones(2)}, "lr": 0.1},
    }


def test_what_torch_saved_is_read_in_place(tmp_path: Path) -> None:
    torch.save(tree(), tmp_path / "a.pt")
    found = read_torch(tmp_path / "a.pt")
    assert found["optimizer"]["lr"] == 0.1
    for name, tensor in flatten(found["model"]).items():
        part, _, leaf = name.partition(".")
        wanted = tree()["model"][part][leaf].detach()
        assert torch.equal(tensor.mapped(), wanted)
        assert b"".join(tensor.chunks()) == bytes(wanted.contiguous().reshape(-1).view(torch.uint8).numpy())


def test_what_is_written_torch_reads_and_maps_and_zip_verifies(tmp_path: Path) -> None:
    torch.save(tree()["model"], tmp_path / "a.pt")
    stored = read_torch(tmp_path / "a.pt")
    write_torch(tmp_path / "b.pt", {"model": {"llm": stored["llm"], "again": {"w": stored["llm"]["w"]}}})
    for mmap in (False, True):
        again = torch.load(tmp_path / "b.pt", weights_only=True, mmap=mmap)["model"]
        assert torch.equal(again["llm"]["w"], tree()["model"]["llm"]["w"])
        assert torch.equal(again["llm"]["n"], tree()["model"]["llm"]["n"])
        assert again["llm"]["n"].data_ptr() % 64 == 0 or not mmap
        assert again["again"]["w"].data_ptr() == again["llm"]["w"].data_ptr(), (
            "a tensor that is met twice is stored once"
        )
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        assert archive.testzip() is None
    assert isinstance(read_torch(tmp_path / "b.pt")["model"]["llm"]["w"], StoredTensor)


@pytest.mark.parametrize(
    "wrap", [lambda payload: payload, lambda payload: {"model": {"w": torch.ones(1), "x": payload}}]
)
def test_code_in_a_file_never_runs(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(Payload(tmp_path / "ran")), tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt was refused unread: it holds more than weights and could run"):
        read_torch(tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"cannot read .*bare\.pt .*: it is no archive of torch\.save"):
        read_torch(tmp_path / "bare.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 10, 300, -1, -40])
def test_a_torn_archive_is_one_sentence(tmp_path: Path, keep: int) -> None:
    torch.save(tree(), tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cannot read .*a\.pt"):
        read_torch(tmp_path / "a.pt")


def test_a_list_and_a_compressed_archive_are_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"holds a list, not a dict of tensors"):
        read_torch(tmp_path / "list.pt")
    torch.save({"w": torch.ones(4)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "z.pt", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"its record '.*' is compressed; save the file anew"):
        read_torch(tmp_path / "z.pt")


def test_a_tensor_beyond_its_record_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "short.pt", "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, data[:8] if entry.filename.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match=r"short\.pt"):
        read_torch(tmp_path / "short.pt")

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from openvla.errors import CheckpointError
from openvla.model.lazy import MadeTensor, cast
from openvla.model.safetensors_file import read_safetensors, write_safetensors


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "b": torch.randn(3, 5, dtype=torch.bfloat16),
        "a": torch.randn(2, 2),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 4),
        "c": torch.arange(7, dtype=torch.int64),
        "é": torch.randn(9).half(),
    }


def written(path: Path, header: Any, values: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)
    return path


def test_what_the_library_wrote_is_read_and_written_again_byte_for_byte(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    found = read_safetensors(tmp_path / "theirs.safetensors")
    for name, tensor in tensors().items():
        assert torch.equal(found[name].mapped(), tensor)
        assert b"".join(found[name].chunks()) == bytes(tensor.reshape(-1).view(torch.uint8).numpy())
    write_safetensors(tmp_path / "ours.safetensors", found)
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_made_and_widened_tensors_are_written(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    stored = read_safetensors(tmp_path / "a.safetensors")["a"]
    made = MadeTensor(torch.float32, (2,), lambda: torch.tensor([1.0, 2.0]))
    write_safetensors(tmp_path / "b.safetensors", {"wide": cast(stored, torch.float32), "made": made})
    again = load_file(tmp_path / "b.safetensors")
    assert torch.equal(again["wide"], torch.ones(4))
    assert torch.equal(again["made"], torch.tensor([1.0, 2.0]))


def test_a_tensor_at_an_odd_place_is_read(tmp_path: Path) -> None:
    value = torch.tensor([1.0, -2.0])
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    path = written(tmp_path / "odd.safetensors", header + b" " * (-(len(header) + 8) % 4 + 1), value.numpy().tobytes())
    assert torch.equal(read_safetensors(path)["a"].mapped(), value)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "values", "message"),
    [
        (b"{", b"", "its header is not JSON"),
        (b"\xff\xfe", b"", "its header is not JSON"),
        (b"[" * 5000, b"", "its header is not JSON"),
        ([], b"", "its header is no JSON object"),
        (b'{"a": {}, "a": {}}', b"", "'a' is in it twice"),
        ({"a": 3}, b"", "tensor 'a' is described by 3"),
        ({"a": ENTRY | {"dtype": "F33"}}, b"12345678", "tensor 'a' has the unknown dtype 'F33'"),
        ({"a": ENTRY | {"shape": "2"}}, b"12345678", "tensor 'a' has shape '2', which must be a list of an integer"),
        ({"a": ENTRY | {"shape": [3]}}, b"12345678", r"tensor 'a' of shape \[3\] .* lies in bytes 0 to 8"),
        ({"a": ENTRY | {"shape": [-2]}}, b"12345678", "which do not fit"),
        ({"a": ENTRY | {"data_offsets": [8, 0]}}, b"12345678", "lies in bytes 8 to 0, which do not fit"),
        ({"a": ENTRY}, b"1234", "its tensors end at byte .* the file at"),
        ({"a": ENTRY}, b"1234567890", "its tensors end at byte"),
        ({"a": ENTRY, "b": ENTRY}, b"12345678", "tensor 'b' starts at byte .* where .* is next"),
        ({"a": ENTRY, "b": ENTRY | {"data_offsets": [12, 20]}}, b"1" * 20, "tensor 'b' starts at byte"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused_as_the_library_refuses_it(
    tmp_path: Path, header: Any, values: bytes, message: str
) -> None:
    path = written(tmp_path / "bad.safetensors", header, values)
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(path)
    if b"twice" not in message.encode() and header != {"a": 3}:
        with pytest.raises((SafetensorError, ValueError, TypeError)), safe_open(path, "pt") as file:
            file.keys()


@pytest.mark.parametrize("length", [10**9, 2**63, 2**64 - 1])
def test_a_huge_header_is_not_allocated(tmp_path: Path, length: int) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=f"10 bytes with a header of {length}"):
        read_safetensors(path)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    save_file({"a": torch.ones(64)}, tmp_path / "a.safetensors")
    tensor = read_safetensors(tmp_path / "a.safetensors")["a"]
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        list(tensor.chunks())

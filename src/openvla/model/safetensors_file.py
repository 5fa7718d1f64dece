"""safetensors files, read by position and written by streaming; the header is checked before any value is touched.

    8 bytes little-endian: length of the header | JSON: name -> {dtype, shape, data_offsets}, "__metadata__" | values

Unusual: nothing but the header is read, so that a tensor of any size costs no memory, and the complaint about a damaged
file names the tensor. Files are written as the safetensors library writes them, byte for byte: larger types first, then
by name.
Source: github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from openvla.codec.fields import INTEGER, TEXT, list_of
from openvla.errors import CheckpointError
from openvla.model.lazy import LazyTensor, StoredTensor, WeightFile, nbytes

DTYPES: dict[str, torch.dtype] = {
    # in the library's order, which is also the order of tensors in a file, backwards
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
_WORDS = {dtype: word for word, dtype in DTYPES.items()}
_RANK = {dtype: rank for rank, dtype in enumerate(_WORDS)}
_MAX_HEADER_BYTES = 100_000_000


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Name -> tensor, in the order of the file. Raises CheckpointError for anything but a whole, sound file."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise _damaged(path, f"{size} bytes with a header of {length}")
            document = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _damaged(path, "its header is no JSON object")
    entries = cast("dict[str, Any]", document)
    entries.pop("__metadata__", None)
    file = WeightFile(path)
    tensors = {name: _entry(file, name, entry, 8 + length) for name, entry in entries.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].offset, nbytes(item[1]))))
    at = 8 + length
    for name, tensor in tensors.items():
        if tensor.offset != at:
            raise _damaged(path, f"tensor {name!r} starts at byte {tensor.offset}, where {at} is next")
        at += nbytes(tensor)
    if at != size:
        raise _damaged(path, f"its tensors end at byte {at}, the file at {size}")
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write a new file, one tensor in memory at a time at most. Raises OSError where the disk refuses."""
    ordered = sorted(tensors.items(), key=lambda item: (-_RANK[item[1].dtype], item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in ordered:
        end = at + nbytes(tensor)
        header[name] = {"dtype": _WORDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb", buffering=0) as file:
        for piece in (len(text).to_bytes(8, "little"), text):
            file.write(piece)
        for _, tensor in ordered:
            for chunk in tensor.chunks():
                while chunk:  # an unbuffered file may take less than it is given
                    chunk = chunk[file.write(chunk) :]


def _entry(file: WeightFile, name: str, entry: object, start: int) -> StoredTensor:
    if not isinstance(entry, dict):
        raise _damaged(file.path, f"tensor {name!r} is described by {entry!r}")
    fields = cast("dict[str, Any]", entry)
    kinds = {"dtype": TEXT, "shape": list_of(INTEGER), "data_offsets": list_of(INTEGER, 2)}
    for field, kind in kinds.items():
        if not kind.holds(fields.get(field)):
            raise _damaged(file.path, f"tensor {name!r} has {field} {fields.get(field)!r}, which must be {kind.name}")
    if fields["dtype"] not in DTYPES:
        raise _damaged(file.path, f"tensor {name!r} has the unknown dtype {fields['dtype']!r}")
    dtype, shape, (begin, end) = DTYPES[fields["dtype"]], tuple(fields["shape"]), fields["data_offsets"]
    if min((begin, *shape)) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(
            file.path,
            f"tensor {name!r} of shape {list(shape)} and {dtype} lies in bytes {begin} to {end}, which do not fit",
        )
    return StoredTensor(file, start + begin, dtype, shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is in it twice")
    return table


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"cannot read {path} ({reason}); it is damaged or incomplete, restore it")

"""Files of `torch.save` (.pt, .bin), read by position and written by streaming; no code in them ever runs.

    a zip archive of uncompressed records:  <name>/data.pkl (the objects, tensors by number),  <name>/data/<number>,
    <name>/version,  <name>/byteorder

Unusual: the pickle is read with `weights_only=True` under torch's fake tensors, which gives every tensor's place in the
file and reads none of its values. The format written is the one that torch writes, checksums included, with each record
at a multiple of 64 bytes so that it can be mapped.
Source: pytorch.org/docs, "Serialization semantics"; PKWARE APPNOTE 4.3 for the archive.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from openvla.errors import CheckpointError
from openvla.model.lazy import LazyTensor, StoredTensor, WeightFile, nbytes, row_major

STORAGES: dict[torch.dtype, type] = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
}
_ALIGNMENT = 64
_LOCAL_HEADER_BYTES = 30


def read_torch(path: Path) -> dict[str, Any]:
    """The dict that was saved, its tensors as `StoredTensor`.

    Raises CheckpointError for a damaged file, one that would run code, one of another format, and one that is no dict.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    records = _records(path)
    try:
        with FakeTensorMode():
            tree = torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was refused unread: it holds more than weights and could run code "
            f"({_first_sentence(error)}); get the weights from a source you trust, as safetensors or a plain state dict"
        ) from error
    except Exception as error:  # the unpickler raises whatever a damaged pickle provokes
        raise CheckpointError(f"cannot read {path} ({_first_sentence(error)}); restore the file") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds a {type(tree).__name__}, not a dict of tensors; give a state dict")
    return cast("dict[str, Any]", _stored(tree, WeightFile(path), records, ""))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, StoredTensor]:
    """The tensors of nested dicts, their names joined by dots; what is no tensor is left out."""
    flat: dict[str, StoredTensor] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(cast("dict[str, Any]", value), f"{prefix}{key}."))
        elif isinstance(value, StoredTensor):
            flat[f"{prefix}{key}"] = value
    return flat


def write_torch(path: Path, tree: Mapping[str, Any]) -> None:
    """Write nested dicts of `LazyTensor` as torch.save does, one tensor in memory at a time at most.

    Raises OSError where the disk refuses, CheckpointError for a type of number that torch has no storage name for.
    """
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(_nested(tree))
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        archive.writestr(_aligned(archive, "data.pkl", pickled.tell()), pickled.getvalue())
        archive.writestr(_aligned(archive, "byteorder", 6), b"little")
        for number, tensor in enumerate(pickler.tensors):
            entry = _aligned(archive, f"data/{number}", nbytes(tensor))
            with archive.open(entry, "w") as record:
                for chunk in tensor.chunks():
                    record.write(chunk)
        archive.writestr(_aligned(archive, "version", 2), b"3\n")


def _records(path: Path) -> list[tuple[int, int]]:
    """(first byte, end) of every record's own bytes, roughly: each ends where the next one's header starts."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            directory = archive.start_dir
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror or error}); restore the file") from error
    except Exception as error:  # zipfile raises struct.error, ValueError, NotImplementedError for damaged archives
        raise CheckpointError(
            f"cannot read {path} ({_first_sentence(error)}): it is no archive of torch.save, or cut short; restore the "
            "file, or save it anew with a torch of version 1.6 or later"
        ) from error
    packed = next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise CheckpointError(f"{path}: its record {packed!r} is compressed; save the file anew with torch.save")
    starts = sorted(entry.header_offset for entry in entries)
    return list(zip(starts, [*starts[1:], directory], strict=True))


def _stored(node: Any, file: WeightFile, records: list[tuple[int, int]], name: str) -> Any:
    """`node` with every fake tensor replaced by its place in the file."""
    if isinstance(node, dict):
        table = cast("dict[Any, Any]", node)
        return {str(key): _stored(value, file, records, f"{name}.{key}".strip(".")) for key, value in table.items()}
    if not isinstance(node, Tensor):
        return node
    storage: Any = node.untyped_storage()
    offset: int | None = getattr(storage, "_checkpoint_offset", None)
    if offset is None:
        raise CheckpointError(f"{file.path}: tensor {name!r} has no bytes in the file; save it anew with torch.save")
    shape, strides, itemsize = tuple(node.shape), tuple(node.stride()), node.dtype.itemsize
    first = offset + int(node.storage_offset()) * itemsize
    last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) * itemsize + itemsize
    inside = any(start < offset and first >= offset and last <= end for start, end in records)
    if node.numel() and (not inside or min(strides, default=0) < 0):
        raise CheckpointError(
            f"{file.path}: tensor {name!r} reaches beyond its record; the file is damaged, restore it"
        )
    return StoredTensor(file, first, node.dtype, shape, strides)


class _Storage:
    """Stands for a tensor's record while the pickle is written."""

    def __init__(self, tensor: LazyTensor, number: int) -> None:
        self.tensor, self.number = tensor, number


class _Reference:
    """Pickles as torch pickles a tensor: a call that rebuilds it from its storage."""

    def __init__(self, tensor: LazyTensor) -> None:
        self.tensor = tensor
        self.storage: _Storage | None = None

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        shape = self.tensor.shape
        rebuild = cast("Any", torch)._utils._rebuild_tensor_v2
        return rebuild, (self.storage, 0, shape, row_major(shape), False, OrderedDict())


class _Pickler(pickle.Pickler):
    """Numbers the tensors in the order in which they are met; one that is met twice is stored once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.tensors: list[LazyTensor] = []

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        if isinstance(obj, _Reference):
            if obj.tensor not in self.tensors:
                self.tensors.append(obj.tensor)
            obj.storage = _Storage(obj.tensor, self.tensors.index(obj.tensor))
            return None
        if not isinstance(obj, _Storage):
            return None
        dtype = obj.tensor.dtype
        if dtype not in STORAGES:
            raise CheckpointError(f"a tensor is {dtype}; a .pt file takes {', '.join(map(str, STORAGES))}")
        return "storage", STORAGES[dtype], str(obj.number), "cpu", nbytes(obj.tensor) // dtype.itemsize


def _nested(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with its tensors as references; the inner dicts are ordered ones, as in published files."""
    return {
        key: OrderedDict(_nested(cast("Mapping[str, Any]", value))) if isinstance(value, Mapping) else _Reference(value)
        for key, value in tree.items()
    }


def _aligned(archive: zipfile.ZipFile, name: str, size: int) -> zipfile.ZipInfo:
    """A record whose bytes start at a multiple of 64: the header carries an extra field of padding, as torch's does."""
    entry = zipfile.ZipInfo(f"archive/{name}")
    entry.file_size = size
    own = 20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0  # zipfile puts the large size into an extra field of its own
    start = cast("Any", archive).fp.tell() + _LOCAL_HEADER_BYTES + len(entry.filename) + own
    padding = -(start + 4) % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return entry


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:200]

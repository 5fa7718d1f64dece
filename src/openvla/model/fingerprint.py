"""What tells one set of weights from another: hashes over all of them, and over a sample that is cheap to take.

Both hash values, not bytes: each tensor's published name, its shape and its values widened to float32, so that a
checkpoint has the same fingerprint in every format and after widening. The sample is 64 values spread evenly over every
tensor: training or merging, which move nearly every weight, cannot miss it. A single flipped value can; the full hash
sees that.

    fingerprint.json beside a checkpoint: {"sample", "weights", "logits": {"values", "dtype", ...}}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvla.codec.fields import OBJECT, TEXT, nullable, read_object, some_fields
from openvla.errors import CheckpointError

FINGERPRINT = "fingerprint.json"
SAMPLES = 64
_PIECE = 1 << 22


def sample_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of 64 values of every tensor."""
    return _hash(tensors, sampled=True)


def full_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of every value of every tensor."""
    return _hash(tensors, sampled=False)


def read_fingerprint(directory: Path) -> dict[str, Any] | None:
    """fingerprint.json of a checkpoint, or None where there is none. Raises CheckpointError for a damaged one."""
    path = directory / FINGERPRINT
    if not path.is_file():
        return None
    kinds = {"sample": TEXT, "weights": TEXT, "logits": nullable(OBJECT)}
    return some_fields(read_object(path), kinds, str(path), {"logits": None})


def check_sample(tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Raise CheckpointError where the weights are not those whose fingerprint lies beside them."""
    stored = read_fingerprint(directory)
    if stored is not None and stored["sample"] != sample_hash(tensors):
        raise CheckpointError(
            f"the weights in {directory} are not those of its {FINGERPRINT}: they changed since it was written; "
            f"restore them, or, if the change was meant, run `openvla doctor --checkpoint {directory} --write`"
        )


def _hash(tensors: Mapping[str, Tensor], sampled: bool) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        flat = tensor.reshape(-1)
        digest.update(f"{name}{list(tensor.shape)}".encode())
        if sampled and len(flat) > SAMPLES:
            flat = flat[torch.linspace(0, len(flat) - 1, SAMPLES, dtype=torch.float64).long()]
        for piece in flat.split(_PIECE):
            digest.update(piece.cpu().to(torch.float32).numpy().tobytes())
    return digest.hexdigest()

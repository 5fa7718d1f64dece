"""Weights of a single image encoder as their makers publish them: timm, Meta (DINOv2), open_clip (SigLIP, CLIP).

    timm        the names of our encoder, with lsN.gamma for lsN.scale_factor
    open_clip   timm's under `visual.trunk.` (SigLIP), or OpenAI's own under `visual.` (CLIP)
    Meta        timm's, but `register_tokens`, a mask token, and a position for the class token, which is added to it

A position table of another image size is resampled: bicubic in float32 with antialiasing, as timm does it; the row of a
class token stays as it is. Whatever the encoder has no place for (heads, text towers) is left out.
Source: timm 0.9.16, vision_transformer, checkpoint filters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from openvla.errors import CheckpointError
from openvla.model.lazy import LazyTensor, MadeTensor
from openvla.model.weights import read_tensors
from openvla.nn.meta import on_meta
from openvla.nn.vit import VisionTransformer, ViTConfig

_CLIP_NAMES = (
    (r"conv1\.", "patch_embed.proj."),
    (r"positional_embedding", "pos_embed"),
    (r"class_embedding", "cls_token"),
    (r"ln_pre\.", "norm_pre."),
    (r"ln_post\.", "norm."),
    (r"transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.in_proj_", ".qkv."),
    (r"\.out_proj\.", ".proj."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
)

Tensors = Mapping[str, LazyTensor]


def read_encoder(path: Path, config: ViTConfig) -> dict[str, LazyTensor]:
    """The tensors of one encoder by the names of `VisionTransformer`, in their stored types.

    Raises CheckpointError for a file that cannot be read, or that is not of this encoder, naming the tensor.
    """
    tensors = _plain_names(read_tensors(path))
    if "pos_embed" in tensors:
        tensors["pos_embed"] = _resized(tensors["pos_embed"], config, path)
    with on_meta():
        expected = VisionTransformer(config).state_dict()
    for name, wanted in expected.items():
        if name not in tensors:
            raise CheckpointError(
                f"{path} lacks the tensor {name!r} of shape {list(wanted.shape)}: it holds another encoder, or none; "
                "give the timm, open_clip or Meta weights of the encoder that the checkpoint names"
            )
        found = tensors[name].shape
        if math.prod(found) != wanted.numel() or (name != "cls_token" and found != tuple(wanted.shape)):
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {list(found)}, where {list(wanted.shape)} belongs; it is another "
                "encoder"
            )
    return {name: _shaped(tensors[name], tuple(wanted.shape)) for name, wanted in expected.items()}


def _plain_names(tensors: Tensors) -> dict[str, LazyTensor]:
    """The names of timm, whichever of the four the file has."""
    for prefix in ("state_dict.", "model."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    for prefix in ("visual.trunk.", "visual."):
        if any(name.startswith(prefix) for name in tensors):
            tensors = {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}
    if "conv1.weight" in tensors:
        tensors = _clip_tensors(tensors)
    if "register_tokens" in tensors or "mask_token" in tensors:
        tensors = _meta_tensors(tensors)
    return {re.sub(r"(\bls\d+)\.gamma$", r"\1.scale_factor", name): tensor for name, tensor in tensors.items()}


def _clip_tensors(tensors: Tensors) -> dict[str, LazyTensor]:
    renamed: dict[str, LazyTensor] = {}
    for theirs, tensor in tensors.items():
        name = theirs
        for pattern, replacement in _CLIP_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    if "pos_embed" in renamed:
        renamed["pos_embed"] = _shaped(renamed["pos_embed"], (1, *renamed["pos_embed"].shape[-2:]))
    return renamed


def _meta_tensors(tensors: Tensors) -> dict[str, LazyTensor]:
    named = {name: tensor for name, tensor in tensors.items() if name != "mask_token"}
    if "register_tokens" in named:
        named["reg_token"] = named.pop("register_tokens")
    if "cls_token" in named and "pos_embed" in named:
        token, positions = named["cls_token"], named["pos_embed"]
        rows, dim = positions.shape[-2:]
        named["cls_token"] = MadeTensor(
            token.dtype, (1, 1, dim), lambda: token.mapped().view(1, 1, -1) + positions.mapped()[:, :1]
        )
        named["pos_embed"] = MadeTensor(positions.dtype, (1, rows - 1, dim), lambda: positions.mapped()[:, 1:])
    return named


def _shaped(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """The same values in another shape of as many; CLIP's class token has one axis, ours three."""
    if tensor.shape == shape:
        return tensor
    return MadeTensor(tensor.dtype, shape, lambda: tensor.mapped().reshape(shape))


def _resized(positions: LazyTensor, config: ViTConfig, path: Path) -> LazyTensor:
    """The position table at the encoder's image size; `positions` itself where it has that."""
    *_, rows, dim = (0, 0, *positions.shape)
    kept = int(config.class_position)
    old, new = math.isqrt(max(rows - kept, 0)), math.isqrt(config.num_patches)
    if rows == config.num_positions:
        return positions
    if old < 1 or old * old != rows - kept or dim != config.dim:
        raise CheckpointError(
            f"{path}: the position table has shape {list(positions.shape)}, which is no square grid of {config.dim} "
            "channels; it is another encoder"
        )
    return MadeTensor(
        positions.dtype, (1, config.num_positions, config.dim), lambda: resample(positions.mapped(), kept, old, new)
    )


def resample(positions: Tensor, kept: int, old: int, new: int) -> Tensor:
    """Position embeddings (1, kept + old^2, C) on a grid of new x new: (1, kept + new^2, C), of the same type."""
    first, grid = positions[:, :kept], positions[:, kept:]
    image = grid.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, image.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)], dim=1)

"""A checkpoint in two parts: encoders (and projector) beside the camera, the decoder on a server.

The edge part is a directory of its own, of a tenth of the weights: config.json with `edge`: {"cut": "projector"}, the
tensors in front of that cut under their published names, and the files of the codec. A whole checkpoint will do as
well; its decoder is not read.

Both sides name the weights in front of a cut by a fingerprint of their bfloat16 values, so that a server in another
precision still knows them. Where both compute in bfloat16, on the same kind of machine, features lose nothing on their
way; elsewhere they are rounded to it.

Shapes: P patches, C channels at the cut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from openvla.codec.codec import Codec
from openvla.codec.fields import read_object
from openvla.errors import CheckpointError, InputError, lookup
from openvla.files import new_directory, write_text
from openvla.infer.loading import DTYPES, native_dtype
from openvla.infer.packing import pack
from openvla.model.checkpoint import check_agreement
from openvla.model.fingerprint import sample_hash
from openvla.model.lazy import LazyTensor
from openvla.model.locate import CONFIG, resolve
from openvla.model.prismatic import ModelConfig, OpenVLA
from openvla.model.published import read_model_config
from openvla.model.safetensors_file import read_safetensors, write_safetensors
from openvla.model.source import EDGE, empty_model, open_source
from openvla.model.weights import WEIGHTS
from openvla.nn.hardware import pick_device
from openvla.serve.features.features import Cut
from openvla.spec import Observation

PARTS = {"encoders": ("vision_backbone.",), "projector": ("vision_backbone.", "projector.")}
"""By cut: the names of the tensors in front of it."""


@dataclass(frozen=True)
class _Part:
    """What lies in front of `cut`: lazily read tensors, and the codec that prepares pictures."""

    config: dict[str, Any]
    model: ModelConfig
    codec: Codec
    tensors: Mapping[str, LazyTensor]
    cut: str
    directory: Path


def cuts_of(model: OpenVLA) -> dict[str, Cut]:
    """Where a packed model may be cut. A model without projector has only the first."""
    config, found = model.config, dict[str, Cut]()
    channels = {"encoders": config.vision_dim, "projector": config.decoder.hidden_size}
    for name, parts in PARTS.items():
        if name == "projector" and isinstance(model.projector, nn.Identity):
            continue
        weights = {key: value for key, value in model.state_dict().items() if key.startswith(parts)}
        same = {key: value.to(torch.bfloat16) for key, value in weights.items()}
        found[name] = Cut(config.num_patches, channels[name], sample_hash(same))
    return found


def save_edge(
    source: str | Path, directory: str | Path, *, cut: str = "projector", revision: str | None = None
) -> None:
    """Write what a camera's machine needs of a checkpoint to a new directory, whole or not at all.

    Raises CheckpointError for a source that cannot be read and a directory that exists, UsageError for another cut.
    """
    lookup(cut, PARTS, "cut")
    part = _open(source, revision)
    if cut == "projector" and part.cut != cut:
        raise CheckpointError(f"{source} is an edge part without projector; give the whole checkpoint")
    tensors = {name: tensor for name, tensor in part.tensors.items() if name.startswith(PARTS[cut])}
    with new_directory(Path(directory), CheckpointError) as place:
        write_text(place / CONFIG, json.dumps(part.config | {EDGE: {"cut": cut}}, indent=2) + "\n", CheckpointError)
        part.codec.save(place)
        write_safetensors(place / WEIGHTS, tensors)


def load_edge(
    source: str | Path, *, device: str = "auto", dtype: str = "auto", revision: str | None = None
) -> EdgeEncoder:
    """The encoders of an edge part, or of a whole checkpoint. dtype: as for `load_policy`.

    Raises CheckpointError for what cannot be loaded, UsageError for other arguments.
    """
    place = pick_device(device)
    wanted = lookup(dtype, {"auto": None, **DTYPES}, "dtype")
    part = _open(source, revision)
    model = empty_model(part.model, part.directory / CONFIG)
    model.language_model = cast("Any", _NoDecoder())
    if part.cut == "encoders":
        model.projector = cast("Any", nn.Identity())
    expected = model.state_dict().keys()
    if missing := expected - part.tensors.keys():
        raise CheckpointError(f"{part.directory} lacks the tensor {min(missing)!r}; write the edge part again")
    weights = {name: part.tensors[name].mapped() for name in expected}
    plain = wanted or native_dtype(next(iter(weights.values())).dtype, place)
    model.load_state_dict({name: tensor.to(plain) for name, tensor in weights.items()}, assign=True)
    return EdgeEncoder(pack(model, place, plain, consume=True), part.codec)


class EdgeEncoder:
    """Encodes pictures for `openvla.serve.edge.EdgePolicy`. model: packed; its decoder is not used."""

    def __init__(self, model: OpenVLA, codec: Codec) -> None:
        self._model, self._codec = model, codec
        self.cuts = cuts_of(model)
        weight = next(model.vision_backbone.parameters())
        self._device, self._dtype = weight.device, weight.dtype

    @torch.inference_mode()
    def encode(self, observation: Observation, cut: str) -> NDArray[np.uint16]:
        """bfloat16 bits (P, C) of the place `cut`. Raises InputError for a picture or place that does not fit."""
        if cut not in self.cuts:
            raise InputError(f"this edge part cannot be cut at {cut!r}, only at {', '.join(self.cuts)}")
        pixels = torch.from_numpy(self._codec.encode_image(observation.image)[None])
        features = self._model.vision_backbone(pixels.to(self._device, self._dtype))
        if cut == "projector":
            features = self._model.projector(features)
        bits: NDArray[np.int16] = features[0].to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy()
        return bits.view(np.uint16)


class _NoDecoder(nn.Module):
    """In the decoder's place: no weights, no layers to pack."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList()


def _open(source: str | Path, revision: str | None) -> _Part:
    """An edge part, or that part of a whole checkpoint."""
    directory, _ = resolve(source, revision)
    config = read_object(directory / CONFIG) if (directory / CONFIG).is_file() else {}
    if EDGE in config:
        entry = config[EDGE]
        cut = str(cast("dict[str, Any]", entry).get("cut")) if isinstance(entry, dict) else str(entry)
        lookup(cut, PARTS, "cut")
        tensors: Mapping[str, LazyTensor] = read_safetensors(directory / WEIGHTS)
        model = read_model_config(config, str(directory / CONFIG))
        return _Part(config, model, Codec.load(directory), tensors, cut, directory)
    opened = open_source(source, revision=revision)
    codec = opened.read_codec()
    check_agreement(codec, opened)
    tensors = {name: each for name, each in opened.tensors.items() if name.startswith(PARTS["projector"])}
    return _Part(opened.config, opened.model, codec, tensors, "projector", opened.directory)

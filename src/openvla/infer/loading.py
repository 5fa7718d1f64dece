"""A checkpoint packed for acting, in the wanted precision, without ever lying in memory twice."""

from __future__ import annotations

from pathlib import Path

import torch

from openvla.codec.fields import read_object
from openvla.errors import UsageError, lookup
from openvla.infer.memory import check_fits
from openvla.infer.packing import pack
from openvla.infer.stored import load_stored
from openvla.model.adapters import ADAPTER_CONFIG
from openvla.model.checkpoint import Checkpoint, load_checkpoint
from openvla.model.locate import CONFIG, resolve
from openvla.model.presets import Preset
from openvla.model.prismatic import OpenVLA
from openvla.model.source import stored_precision
from openvla.nn.hardware import DTYPES, multiplies_bf16
from openvla.nn.meta import on_meta
from openvla.nn.quantized import PRECISIONS, QuantizedLinear, check_precision


def load_packed(
    source: str | Path, *, device: torch.device, dtype: str, quantize: str | None, revision: str | None
) -> Checkpoint:
    """A checkpoint whose model is packed on `device`. See `load_policy` for the arguments and errors."""
    wanted = lookup(dtype, {"auto": None, **DTYPES}, "dtype")
    quantized = pick_precision(quantize, device)
    found = None if (Path(source) / ADAPTER_CONFIG).is_file() else _quantised_directory(source, revision)
    if found is not None:
        directory, stored = found
        if quantize not in (None, stored):
            raise UsageError(
                f"{source} holds its weights as {stored}; leave quantize={quantize!r} out, or load the original"
            )
        pick_precision(stored, device)
        return load_stored(directory, read_object(directory / CONFIG), device, wanted)
    checkpoint = load_checkpoint(source, revision=revision)
    plain = wanted or native_dtype(checkpoint.model.language_model.model.embed_tokens.weight.dtype, device)
    check_fits(checkpoint.model, device, plain, quantized)
    pack(checkpoint.model, device, plain, quantized, consume=True)
    return checkpoint


def random_packed(preset: Preset, device: torch.device, dtype: torch.dtype, quantize: str | None) -> OpenVLA:
    """A packed model of random weights, made directly in their precision. Raises UsageError where it does not fit."""
    quantized = pick_precision(quantize, device)
    with on_meta():
        model = OpenVLA(preset.model)
    check_fits(model, device, dtype, quantized)
    return pack(model, device, dtype, quantized, consume=True)


def pick_precision(name: str | None, device: torch.device) -> type[QuantizedLinear] | None:
    """The class of the decoder's linear layers; None stands for plain ones.

    Raises UsageError for a name that does not exist, and for one that `device` has no kernel for.
    """
    if name is None:
        return None
    quantized = lookup(name, PRECISIONS, "precision")
    check_precision(name, device)
    return quantized


def native_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """`stored` if `device` multiplies it natively, else float32."""
    native = (stored == torch.bfloat16 and multiplies_bf16(device)) or (
        stored == torch.float16 and device.type == "cuda"
    )
    return stored if native else torch.float32


def _quantised_directory(source: str | Path, revision: str | None) -> tuple[Path, str] | None:
    """Directory and precision of a source that `save_packed` wrote; None for any other."""
    directory, _ = resolve(source, revision)
    precision = stored_precision(read_object(directory / CONFIG))
    return None if precision is None else (directory, precision)

"""Proof that a loaded model is the model it says it is: what is in force and from which file, and what it computes.

Published checkpoints fail silently when a library moves: the same plausible action for every image, another epsilon,
rounded constants. Each check here turns one such failure into a sentence. They run the model or read every weight;
the cheap ones (finite values, agreement of codec and weights, a sample of the fingerprint) run at every load.

Shapes: N positions of the fused sequence, V vocabulary.
"""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvla.codec.codec import Codec
from openvla.codec.families import LLAMA_SUFFIX_TOKEN
from openvla.codec.origins import origins
from openvla.codec.published import LLAMA_VOCAB
from openvla.errors import CheckpointError
from openvla.files import write_text
from openvla.model.checkpoint import check_agreement, load_model
from openvla.model.fingerprint import FINGERPRINT, full_hash, read_fingerprint, sample_hash
from openvla.model.locate import SHIPPED
from openvla.model.merge_check import fixed_input
from openvla.model.prismatic import OpenVLA
from openvla.model.source import Source, check_finite, dtypes_of, open_source
from openvla.nn.hardware import multiplies_bf16, pick_device

LOGITS = 32
"""Logits of the last position that a fingerprint keeps, spread evenly over the vocabulary."""
DRIFT = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest difference from the stored logits, relative to their spread; kernels differ between machines by less."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ok: None where it could not be."""

    name: str
    ok: bool | None
    detail: str


@dataclass
class Diagnosis:
    """What is in force, each with the file it comes from, and what was checked."""

    checkpoint: str
    facts: dict[str, dict[str, Any]]
    checks: list[Check] = field(default_factory=list[Check])

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.ok is False]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "checkpoint": self.checkpoint,
            "ok": not self.failures,
            "facts": self.facts,
            "checks": [asdict(check) for check in self.checks],
        }


@torch.inference_mode()
def diagnose(source: str | Path, *, device: str = "cpu", write: bool = False, revision: str | None = None) -> Diagnosis:
    """Open, load and test a checkpoint; store its fingerprint beside it where there is none yet, or on `write`.

    Raises CheckpointError for a checkpoint that does not load at all. What loads and fails a test is in `checks`.
    """
    opened = open_source(source, revision=revision)
    codec = opened.read_codec()
    check_agreement(codec, opened)
    found = Diagnosis(str(source), _facts(opened, codec))
    stored = {name: tensor.mapped() for name, tensor in opened.tensors.items()}
    try:
        check_finite(stored, opened.directory, everything=True)
        found.checks.append(Check("finite weights", True, f"{len(stored)} tensors without NaN or infinity"))
    except CheckpointError as error:
        found.checks.append(Check("finite weights", False, str(error)))
        return found
    place = pick_device(device)
    model = load_model(opened, fingerprinted=False)
    model = model.to(device=place, dtype=_computed_in(next(model.parameters()).dtype, place)).eval()
    found.checks += [_sees(model), _causal(model), *_tokenizer(codec)]
    found.checks.append(_fingerprint(opened, stored, model, write and not found.failures))
    return found


def _facts(opened: Source, codec: Codec) -> dict[str, dict[str, Any]]:
    """Name -> {"value", "from"}."""
    config, files = opened.model, origins(opened.directory, opened.config)
    sizes = [f"{e.image_size} px, {e.depth} blocks of {e.dim}, {e.activation}" for e in config.encoders]
    decoder = config.decoder
    count = sum(tensor.mapped().numel() for tensor in opened.tensors.values())
    return {
        "format": {"value": opened.format, "from": "the files of the directory"},
        "weights": {"value": f"{count} parameters, {dtypes_of(opened.tensors)}", "from": "the weights"},
        "encoders": {"value": dict(zip(opened.config["timm_model_ids"], sizes, strict=True)), "from": "config.json"},
        "projector": {"value": config.projector, "from": "config.json"},
        "decoder": {
            "value": f"{decoder.family}, {decoder.num_hidden_layers} layers of {decoder.hidden_size}, vocabulary "
            f"{decoder.vocab_size}",
            "from": "config.json, text_config",
        },
        "rms_norm_eps": {"value": decoder.rms_norm_eps, "from": files["rms_norm_eps"]},
        "prompt": {"value": codec.prompt.template, "from": files["prompt"]},
        "resize": {"value": f"{codec.images.strategy} to {codec.images.size} px", "from": files["images"]},
        "mean": {"value": [list(mean) for mean in codec.images.means], "from": files["images"]},
        "std": {"value": [list(std) for std in codec.images.stds], "from": files["images"]},
        "training_crop": {"value": codec.training_crop, "from": files["codec"]},
        "statistics": {"value": list(codec.statistics), "from": files["statistics"]},
        "action_tokens": {
            "value": [codec.actions.token_range.start, codec.actions.token_range.stop - 1],
            "from": files["codec"],
        },
        "suffix_token": {"value": codec.suffix_token_id, "from": files["suffix_token"]},
        "tokenizer": {
            "value": None if codec.tokenizer is None else codec.tokenizer.get_vocab_size(), "from": files["tokenizer"],
        },
    }  # fmt: skip


def _computed_in(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """`stored`, or float32 where the device would emulate it."""
    emulated = stored == torch.bfloat16 and not multiplies_bf16(device)
    return torch.float32 if emulated or (stored == torch.float16 and device.type == "cpu") else stored


def _sees(model: OpenVLA) -> Check:
    """A black and a white image must give different logits."""
    ids, pixels = _fixed(model)
    black, white = (model(ids, torch.full_like(pixels, value)).logits[:, -1] for value in (-1.0, 1.0))
    difference = float((black - white).abs().max())
    ok = difference > 1e-6 * float(black.abs().max())
    detail = f"logits of a black and of a white image differ by up to {difference:.3g}"
    return Check("sees the image", ok, detail if ok else f"{detail}: the model does not look at its image")


def _causal(model: OpenVLA) -> Check:
    """A later token must not move earlier logits, and must move its own."""
    ids, pixels = _fixed(model)
    other = ids.clone()
    other[0, -1] = (int(ids[0, -1]) + 1) % (model.config.decoder.vocab_size - 64)
    first, second = model(ids, pixels).logits, model(other, pixels).logits
    scale = float(first.abs().max())
    before = float((first[:, :-1] - second[:, :-1]).abs().max()) / scale
    after = float((first[:, -1] - second[:, -1]).abs().max()) / scale
    ok = before < 1e-3 < after or (before == 0 and after > 0)
    detail = f"changing the last token moves earlier logits by {before:.2g} of their size, its own by {after:.2g}"
    return Check("attention looks back", ok, detail if ok else f"{detail}: attention has the wrong direction")


def _tokenizer(codec: Codec) -> list[Check]:
    """The prompt starts with BOS and ends, once, with the space token that precedes actions."""
    if codec.tokenizer is None:
        return [Check("tokenizer", None, "there is none; what needs text will say so")]
    try:
        ids = codec.encode_prompt("pick up the block")
    except CheckpointError as error:
        return [Check("tokenizer", False, str(error))]
    suffix = codec.suffix_token_id
    checks = [
        Check("tokenizer", ids[0] == codec.bos_token_id, f"a prompt is {len(ids)} ids, from {ids[0]} to {ids[-1]}")
    ]
    if suffix is not None:
        once = ids[-1] == suffix and ids[-2] != suffix
        wanted = LLAMA_SUFFIX_TOKEN if codec.actions.vocab_size == LLAMA_VOCAB else suffix
        ok = once and suffix == wanted and codec.tokenizer.id_to_token(suffix) == "▁"
        detail = f"the token before the actions is {suffix} ({codec.tokenizer.id_to_token(suffix)!r})"
        checks.append(Check("suffix token", ok, detail if ok else f"{detail}, where {wanted} ('▁') belongs, once"))
    return checks


def _fingerprint(opened: Source, stored: dict[str, Tensor], model: OpenVLA, write: bool) -> Check:
    """Compare with the stored fingerprint, or store one."""
    known = read_fingerprint(opened.directory)
    ids, pixels = _fixed(model)
    values = model(ids, pixels).logits[0, -1].cpu()
    values = values[torch.linspace(0, len(values) - 1, LOGITS, dtype=torch.float64).long()]
    dtype = next(model.parameters()).dtype
    own = {
        "sample": sample_hash(stored),
        "weights": full_hash(stored),
        "rms_norm_eps": opened.model.decoder.rms_norm_eps,
        "logits": {"dtype": str(dtype).removeprefix("torch."), "values": [round(float(value), 6) for value in values]},
    }
    if known is not None and not write:
        return _compare(known, own, values, dtype)
    path = opened.directory / FINGERPRINT
    if not write and path.is_relative_to(SHIPPED):
        return Check("fingerprint", None, "none is stored; a shipped policy is not written to without --write")
    if not path.parent.stat().st_mode & stat.S_IWUSR:  # not os.access, which grants an administrator everything
        return Check("fingerprint", False if write else None, f"none is stored: {path.parent} is read-only")
    try:
        write_text(path, json.dumps(own, indent=2) + "\n", CheckpointError)
    except CheckpointError as error:
        return Check("fingerprint", None if not write else False, f"none is stored: {error}")
    return Check("fingerprint", True, f"stored in {path}; the next run compares with it")


def _compare(known: dict[str, Any], own: dict[str, Any], values: Tensor, dtype: torch.dtype) -> Check:
    if known["weights"] != own["weights"]:
        return Check(
            "fingerprint", False, "the weights are not those whose fingerprint is stored; --write accepts them"
        )
    stored: Any = (known["logits"] or {}).get("values")
    if not isinstance(stored, list) or len(stored) != len(values):
        return Check("fingerprint", False, f"{FINGERPRINT} holds no {LOGITS} logits; --write stores them anew")
    difference = float((torch.tensor(stored) - values).abs().max() / values.std())
    widest = max(DRIFT[dtype], DRIFT[getattr(torch, str(known["logits"].get("dtype")), torch.bfloat16)])
    ok = difference <= widest
    detail = f"same weights, logits differ from the stored ones by {difference:.2g} of their spread"
    return Check("fingerprint", ok, detail if ok else f"{detail}: the same weights compute something else here")


def _fixed(model: OpenVLA) -> tuple[Tensor, Tensor]:
    weight = next(model.parameters())
    ids, pixels = fixed_input(model.config, weight.dtype)
    return ids.to(weight.device), pixels.to(weight.device)

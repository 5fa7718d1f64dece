from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openvla.model.prismatic import ModelConfig, OpenVLA
from openvla.nn.decoder_config import DecoderConfig
from openvla.nn.vit import ViTConfig
from openvla.train.activations import FLOAT32
from openvla.train.census import census
from openvla.train.memory import WIDTHS
from openvla.train.methods import PARTS, prepare
from openvla.train.segments import segments

DINO = ViTConfig(112, 14, 96, 4, 4, 200, 5, True)
SIGLIP = ViTConfig(112, 14, 96, 4, 4, 200, attention_pool=True)
CLIP = ViTConfig(
    112, 14, 96, 4, 4, 200, 1, class_position=True, norm_pre=True, patch_bias=False, activation="quick_gelu"
)
MODELS: dict[str, tuple[tuple[ViTConfig, ...], dict[str, Any]]] = {
    "dinosiglip": ((DINO, SIGLIP), {}),
    "clip": ((CLIP,), {}),
    "qwen2": ((SIGLIP,), {"family": "qwen2", "tie_word_embeddings": True}),
    "phi": ((SIGLIP,), {"family": "phi", "num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
}
TOKENS, SUPERVISED = 20, 8


def small(name: str) -> ModelConfig:
    encoders, changes = MODELS[name]
    sizes = {"vocab_size": 128, "hidden_size": 160, "intermediate_size": 400, "num_hidden_layers": 4}
    decoder = DecoderConfig(**{**sizes, "num_attention_heads": 4, "num_key_value_heads": 2, **changes})
    return ModelConfig(encoders, decoder, "fused-gelu-mlp" if len(encoders) == 2 else "gelu-mlp")


def kept(model: OpenVLA, batch: int, precision: str) -> int:
    """Bytes of the distinct storages that autograd keeps of one forward pass, parameters apart."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            found.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    size = model.config.encoders[0].image_size
    ids, pixels = (
        torch.ones(batch, TOKENS, dtype=torch.long),
        torch.zeros(batch, 3 * len(model.config.encoders), size, size),
    )
    labels = torch.where(torch.arange(TOKENS) < TOKENS - SUPERVISED, -100, ids)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        F.cross_entropy(*model.supervised_logits(ids, pixels, labels))
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def counted(config: ModelConfig, method: str, width: int, checkpointing: bool = False) -> int:
    """Bytes per example of all segments, and the most that is computed again at once."""
    found = segments(config, census(config, method, 4), 4, width, TOKENS, checkpointing)
    return sum(each.kept for each in found) + max(each.again for each in found)


@pytest.mark.parametrize("precision", WIDTHS)
@pytest.mark.parametrize("method", [*PARTS, "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_the_count_is_what_autograd_keeps(name: str, method: str, precision: str) -> None:
    if method == "lora":
        pytest.importorskip("peft")
    config, width = small(name), WIDTHS[precision]
    model = OpenVLA(config)
    if precision == "bf16":
        model.bfloat16()
    prepare(model, method, rank=4, seed=0)
    measured = (kept(model, 4, precision) - kept(model, 2, precision)) / 2
    logits = SUPERVISED * (FLOAT32 * config.decoder.vocab_size + width * config.decoder.hidden_size)
    assert counted(config, method, width) == pytest.approx(measured - logits, rel=0.03)


def test_checkpointing_keeps_one_layer_and_the_inputs_of_the_others() -> None:
    config = small("clip")
    assert counted(config, "full", 2, checkpointing=True) < 0.6 * counted(config, "full", 2)


def test_frozen_encoders_keep_nothing() -> None:
    config = small("dinosiglip")
    assert counted(config, "frozen-vision", 2) < counted(config, "full", 2)

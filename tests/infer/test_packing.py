from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from openvla.infer.engine import Engine
from openvla.infer.packing import pack, release
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA
from openvla.nn.quantized import Int4Linear, Int8Linear, QuantizedLinear

CPU = torch.device("cpu")
MICRO = PRESETS["micro"].model
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 4096},
    "qwen2": {"tie_word_embeddings": True},
    "phi": {"partial_rotary_factor": 0.5, "num_key_value_heads": 4},
}


def model_of(family: str) -> OpenVLA:
    decoder = dataclasses.replace(MICRO.decoder, family=family, **FAMILIES[family])
    torch.manual_seed(0)
    model = OpenVLA(dataclasses.replace(MICRO, decoder=decoder)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@torch.inference_mode()
def slow(model: OpenVLA, ids: list[int], pixels: torch.Tensor, count: int) -> list[int]:
    prompt = torch.tensor([ids])
    for _ in range(count):
        prompt = torch.cat([prompt, model(prompt, pixels).logits[:, -1:].argmax(-1)], dim=1)
    return prompt[0, -count:].tolist()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_of_decoders_is_packed_and_gives_the_plain_tokens(family: str) -> None:
    model, pixels = model_of(family), torch.randn(1, 6, 28, 28, generator=torch.Generator().manual_seed(0))
    packed = pack(model, CPU, torch.float32)
    assert not [name for name, _ in packed.named_modules() if name.endswith(("q_proj", "gate_proj", "attn_pool.kv"))]
    engine = Engine(packed, 6, range(MICRO.decoder.vocab_size))
    assert engine.act([[1, 5, 9]], pixels).tokens[0].tolist() == slow(model, [1, 5, 9], pixels, 6)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_matrix_of_a_decoder_layer_is_quantised(family: str, kind: type[QuantizedLinear]) -> None:
    model = model_of(family)
    packed = pack(model, CPU, torch.float32, kind)
    layers = packed.language_model.model.layers
    assert sum(isinstance(module, kind) for module in layers.modules()) == 4 * len(layers)
    assert not any(isinstance(module, nn.Linear) for module in layers.modules())
    assert Engine(packed, 3, range(8)).act([[1, 5]], torch.zeros(1, 6, 28, 28)).tokens.shape == (1, 3)


def test_consuming_frees_the_originals_and_copying_does_not() -> None:
    model = model_of("llama")
    query = model.language_model.model.layers[0].self_attn.q_proj
    assert pack(model, CPU, torch.float32) is not model
    assert query.weight is not None
    assert pack(model, CPU, torch.float32, consume=True) is model
    assert query.weight is None


def test_what_never_runs_is_dropped() -> None:
    packed = pack(model_of("llama"), CPU, torch.bfloat16)
    for encoder in packed.vision_backbone.children():
        assert isinstance(encoder.blocks[-1], nn.Identity)
        assert isinstance(encoder.norm, nn.Identity)
    assert {parameter.dtype for parameter in packed.parameters()} == {torch.bfloat16}


def test_releasing_pages_never_changes_values() -> None:
    tensor = torch.arange(10000)
    release(tensor)
    release(torch.empty(3, device="meta"))
    assert torch.equal(tensor, torch.arange(10000))

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

import openvla.nn
from openvla.errors import UsageError
from openvla.infer.cache import StaticCache
from openvla.infer.fused_decoder import FusedDecoder, GpuDecoder, accelerated
from openvla.infer.fused_vision import FusedVision, GpuVision, accelerated_vision
from openvla.infer.packing import pack
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA
from openvla.nn import amx

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton runs the kernels in Python then
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
CPU = torch.device("cpu")
HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROMPT, SLOTS = 20, 64


def packed(family: str = "llama", groups: int = 2, device: torch.device = HERE) -> OpenVLA:
    torch.manual_seed(0)
    config = PRESETS["micro"].model
    decoder = replace(config.decoder, num_key_value_heads=groups, family=family)
    model = OpenVLA(replace(config, decoder=decoder))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return pack(model, device, torch.bfloat16)


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@torch.inference_mode()
def decoded(
    decoder: Callable[..., Tensor], config: Any, rows: int, tokens: int, device: torch.device = HERE
) -> list[Tensor]:
    """A prompt, then some tokens: hidden states of both, keys and values."""
    cache = StaticCache(config, rows, SLOTS, torch.bfloat16, device)
    prompt, more = (
        torch.randn(rows, PROMPT + tokens, config.hidden_size).bfloat16().to(device).split([PROMPT, tokens], 1)
    )
    cache.start(torch.arange(rows, device=device))
    places = torch.arange(PROMPT + tokens, device=device).expand(rows, -1)
    first = decoder(prompt.contiguous(), places[:, :PROMPT], None, cache)
    positions = places[:, PROMPT:].contiguous()
    return [first, decoder(more.contiguous(), positions, cache.extend(positions), cache), cache.keys, cache.values]


@needs_triton
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize(("family", "groups"), [("llama", 4), ("mistral", 2), ("qwen2", 2)])
def test_on_a_gpu_the_decoder_gives_what_its_modules_give(family: str, groups: int, rows: int, tokens: int) -> None:
    model = packed(family, groups).language_model.model
    found, wanted = [], []
    for results, decoder in ((found, GpuDecoder(model)), (wanted, model)):
        torch.manual_seed(3)
        results += decoded(decoder, model.config, rows, tokens)
    for one, other in zip(found, wanted, strict=True):
        assert apart(one, other) < 2e-2


@needs_triton
def test_on_a_gpu_the_encoders_give_what_their_modules_give(monkeypatch: pytest.MonkeyPatch) -> None:
    if HERE.type == "cpu":
        for name in ("Stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, Mock())
        monkeypatch.setattr(torch.cuda, "stream", Mock(return_value=contextlib.nullcontext()))
    backbone = packed().vision_backbone
    pixels = torch.randn(2, 6, 28, 28, generator=torch.Generator().manual_seed(0)).bfloat16().to(HERE)
    with torch.inference_mode():
        assert apart(GpuVision(backbone)(pixels), backbone(pixels)) < 1e-2


def test_a_gpu_without_triton_is_one_sentence_in_plain_precision_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("gpu_kernels", "gpu_row"):
        monkeypatch.delitem(sys.modules, f"openvla.nn.{name}", raising=False)
        monkeypatch.delattr(openvla.nn, name, raising=False)
    with pytest.raises(UsageError, match=r"a policy on a GPU needs Triton .*; install the build of torch for CUDA"):
        GpuDecoder(packed().language_model.model)


def test_elsewhere_the_modules_themselves_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx, "available", lambda: False)
    model = pack(OpenVLA(PRESETS["micro"].model), torch.device("cpu"), torch.bfloat16)
    assert accelerated(model.language_model.model) is model.language_model.model
    assert accelerated_vision(model.vision_backbone) is model.vision_backbone


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize(("family", "groups"), [("llama", 4), ("mistral", 2), ("qwen2", 2)])
def test_with_amx_the_decoder_gives_what_its_modules_give(
    family: str, groups: int, rows: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = accelerated(packed(family, groups, CPU).language_model.model)
    assert isinstance(fused, FusedDecoder)
    torch.manual_seed(3)
    found = decoded(fused, fused.config, rows, tokens, CPU)
    monkeypatch.setattr(amx, "available", lambda: False)
    model = packed(family, groups, CPU).language_model.model
    torch.manual_seed(3)
    for one, other in zip(found, decoded(model, model.config, rows, tokens, CPU), strict=True):
        assert apart(one, other) < 1e-2


@pytest.mark.usefixtures("needs_amx")
def test_with_amx_the_encoders_give_what_their_modules_give(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randn(2, 6, 28, 28, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        fused = accelerated_vision(packed(device=CPU).vision_backbone)
        assert isinstance(fused, FusedVision)
        found = fused(pixels)
        monkeypatch.setattr(amx, "available", lambda: False)
        assert apart(found, packed(device=CPU).vision_backbone(pixels)) < 1e-2

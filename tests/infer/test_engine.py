from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from openvla.infer.engine import Clock, generate
from openvla.model.checkpoint import Checkpoint, load_checkpoint
from openvla.model.prismatic import OpenVLA


@torch.inference_mode()
def slow(model: OpenVLA, ids: Tensor, pixels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """One full forward pass per token, one row, no cache."""
    chosen = []
    for _ in range(count):
        probability, token = model(ids, pixels).logits[:, -1].softmax(-1).max(-1)
        chosen.append(probability)
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids[0, -count:], torch.cat(chosen)


def batch(lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, 1200, (len(lengths), max(lengths)))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids.where(mask, 1536), torch.randn(len(lengths), 6, 28, 28), mask


@pytest.mark.parametrize("lengths", [[6], [6, 6, 6], [6, 2, 9, 1]], ids=["one", "even", "ragged"])
def test_it_equals_one_full_pass_per_token(checkpoint: Checkpoint, lengths: list[int]) -> None:
    ids, pixels, mask = batch(lengths)
    generation = generate(checkpoint.model, ids, pixels, 7, mask)
    assert generation.tokens.shape == generation.probabilities.shape == (len(lengths), 7)
    for row, length in enumerate(lengths):
        tokens, probabilities = slow(checkpoint.model, ids[row : row + 1, :length], pixels[row : row + 1], 7)
        assert torch.equal(generation.tokens[row], tokens)
        torch.testing.assert_close(generation.probabilities[row], probabilities, rtol=1e-4, atol=1e-6)


def test_a_mask_of_ones_is_no_mask(checkpoint: Checkpoint) -> None:
    ids, pixels, mask = batch([5, 5])
    with_mask, without = generate(checkpoint.model, ids, pixels, 3, mask), generate(checkpoint.model, ids, pixels, 3)
    assert torch.equal(with_mask.tokens, without.tokens)
    assert torch.equal(with_mask.probabilities, without.probabilities)


def test_one_token_needs_no_decoding_step(checkpoint: Checkpoint) -> None:
    ids, pixels, _ = batch([5])
    assert torch.equal(
        generate(checkpoint.model, ids, pixels, 1).tokens, generate(checkpoint.model, ids, pixels, 4).tokens[:, :1]
    )


def test_it_generates_what_the_published_code_generated(shared: Path) -> None:
    folder = shared / "golden" / "tiny"
    checkpoint, stored = load_checkpoint(folder), load_file(folder / "golden.safetensors")
    generated = stored["generated"]
    prompt = generated[:, :-7]
    assert torch.equal(generate(checkpoint.model, prompt, stored["pixel_values"], 7).tokens, generated[:, -7:])
    shorter = torch.cat([prompt, torch.full((1, 4), checkpoint.codec.pad_token_id)], dim=1)
    ids, pixels = torch.cat([shorter, shorter.roll(1)]), stored["pixel_values"].expand(2, -1, -1, -1)
    mask = torch.arange(ids.shape[1]) < torch.tensor([[prompt.shape[1]], [ids.shape[1]]])
    assert torch.equal(generate(checkpoint.model, ids, pixels, 7, mask).tokens[:1], generated[:, -7:])


def test_a_clock_books_every_lap_once() -> None:
    clock = Clock(torch.device("cpu"))
    for phase in ("a", "b", "a"):
        clock.lap(phase)
    assert list(clock.seconds) == ["a", "b"]
    assert min(clock.seconds.values()) >= 0

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from openvla.errors import InputError
from openvla.infer.engine import Engine, Generation, Limits
from openvla.infer.packing import pack
from openvla.model.checkpoint import Checkpoint, load_checkpoint
from openvla.model.prismatic import OpenVLA

VOCABULARY, BINS = range(1600), range(1280, 1536)
CPU = torch.device("cpu")


@torch.inference_mode()
def slow(
    model: OpenVLA, ids: list[int], pixels: Tensor, count: int, choices: range = VOCABULARY
) -> tuple[list[int], Tensor]:
    """One full forward pass of the plain module per token, one row, no cache."""
    prompt, chosen = torch.tensor([ids]), []
    for _ in range(count):
        scores = model(prompt, pixels[None]).logits[:, -1, choices.start : choices.stop]
        probability, best = scores.softmax(-1).max(-1)
        chosen.append(probability)
        prompt = torch.cat([prompt, best[:, None] + choices.start], dim=1)
    return prompt[0, -count:].tolist(), torch.cat(chosen)


def batch(lengths: list[int]) -> tuple[list[list[int]], Tensor]:
    torch.manual_seed(1)
    return [torch.randint(3, 1200, (length,)).tolist() for length in lengths], torch.randn(len(lengths), 6, 28, 28)


def engine_of(model: OpenVLA, count: int = 7, choices: range = VOCABULARY, bucket: int | None = None) -> Engine:
    return Engine(pack(model, CPU, torch.float32), count, choices, bucket=bucket)


def check(generation: Generation, model: OpenVLA, prompts: list[list[int]], pixels: Tensor, choices: range) -> None:
    for row, prompt in enumerate(prompts):
        tokens, probabilities = slow(model, prompt, pixels[row], generation.tokens.shape[1], choices)
        assert generation.tokens[row].tolist() == tokens
        torch.testing.assert_close(generation.probabilities[row], probabilities, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bucket", [1, 16], ids=["exact", "bucketed"])
@pytest.mark.parametrize("choices", [VOCABULARY, BINS], ids=["vocabulary", "bins"])
@pytest.mark.parametrize("lengths", [[6], [6, 6, 6], [6, 2, 9, 1, 4]], ids=["one", "even", "ragged"])
def test_it_equals_one_full_pass_of_the_plain_module_per_token(
    checkpoint: Checkpoint, lengths: list[int], choices: range, bucket: int
) -> None:
    prompts, pixels = batch(lengths)
    generation = engine_of(checkpoint.model, 7, choices, bucket).act(prompts, pixels)
    assert generation.passes == 7
    assert list(generation.seconds) == ["vision", "prefill", "decode"]
    check(generation, checkpoint.model, prompts, pixels, choices)


def test_one_token_needs_one_pass(checkpoint: Checkpoint) -> None:
    prompts, pixels = batch([5])
    one = engine_of(checkpoint.model, 1).act(prompts, pixels)
    assert one.passes == 1
    assert torch.equal(one.tokens, engine_of(checkpoint.model, 4).act(prompts, pixels).tokens[:, :1])


@pytest.mark.parametrize("wrong_from", [0, 1, 3, 6, 7])
@pytest.mark.parametrize("lengths", [[6], [6, 2, 9]], ids=["one", "ragged"])
def test_guesses_change_passes_and_nothing_else(checkpoint: Checkpoint, lengths: list[int], wrong_from: int) -> None:
    prompts, pixels = batch(lengths)
    engine = engine_of(checkpoint.model)
    plain = engine.act(prompts, pixels)
    guesses = plain.tokens.numpy().copy()
    guesses[:, wrong_from:] = 3  # which is never chosen here
    assert not (plain.tokens == 3).any()
    speculated = engine.act(prompts, pixels, lambda chosen: guesses)
    assert torch.equal(speculated.tokens, plain.tokens)
    torch.testing.assert_close(speculated.probabilities, plain.probabilities, rtol=1e-4, atol=1e-6)
    assert speculated.passes == max(1, 7 - wrong_from)


def test_rows_that_agree_with_their_guesses_to_different_lengths_are_all_right(checkpoint: Checkpoint) -> None:
    prompts, pixels = batch([6, 2, 9])
    engine = engine_of(checkpoint.model)
    plain = engine.act(prompts, pixels)
    guesses = plain.tokens.numpy().copy()
    for row, wrong in enumerate((0, 3, 5)):
        guesses[row, wrong] = 3
    assert torch.equal(engine.act(prompts, pixels, lambda chosen: guesses).tokens, plain.tokens)


def test_calls_of_any_size_follow_each_other(checkpoint: Checkpoint) -> None:
    engine = engine_of(checkpoint.model, 3)
    for lengths in ([4], [9, 2, 5], [1], [70, 3], [4]):
        prompts, pixels = batch(lengths)
        check(engine.act(prompts, pixels), checkpoint.model, prompts, pixels, VOCABULARY)


def test_packing_leaves_the_plain_model_alone(checkpoint: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    engine_of(checkpoint.model)
    after = checkpoint.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_it_generates_what_the_published_code_generated(shared: Path) -> None:
    folder = shared / "golden" / "tiny"
    checkpoint, stored = load_checkpoint(folder), load_file(folder / "golden.safetensors")
    prompt, wanted = stored["generated"][0, :-7].tolist(), stored["generated"][0, -7:]
    for choices in (range(32064), checkpoint.codec.actions.token_range):
        engine = Engine(pack(checkpoint.model, CPU, torch.float32), 7, choices)
        assert torch.equal(engine.act([prompt], stored["pixel_values"]).tokens[0], wanted)
        pixels = stored["pixel_values"].expand(2, -1, -1, -1)
        assert torch.equal(engine.act([prompt, prompt[:-4]], pixels).tokens[0], wanted)


def test_what_exceeds_the_limits_is_refused_and_the_engine_goes_on(checkpoint: Checkpoint) -> None:
    engine = Engine(pack(checkpoint.model, CPU, torch.float32), 7, VOCABULARY, Limits(rows=2, prompt=8))
    prompts, pixels = batch([6])
    first = engine.act(prompts, pixels)
    with pytest.raises(InputError, match=r"3 observations, .* loaded for at most 2; .* max_batch=3"):
        engine.act(*batch([1, 2, 3]))
    with pytest.raises(InputError, match=r"prompt has 9 tokens, .* loaded for at most 8; .* max_prompt=9"):
        engine.act(*batch([2, 9]))
    with pytest.raises(InputError, match=r"9 image channels of 28 x 28 .* takes 6 of 28 x 28"):
        engine.act(prompts, torch.zeros(1, 9, 28, 28))
    assert torch.equal(engine.act(prompts, pixels).tokens, first.tokens)


def test_passes_may_be_repeated(checkpoint: Checkpoint) -> None:
    """Capture on a GPU runs each function several times, which must not change what it gives."""
    prompts, pixels = batch([5, 3])
    engine = engine_of(checkpoint.model)
    patches = engine.see(pixels)
    nothing = np.zeros((2, 7), np.int64)
    first, again = (engine.read(prompts, patches, [0, 1], nothing, 0) for _ in range(2))
    assert torch.equal(first.tokens, again.tokens)
    results = [engine.extend(first, 1, 6) for _ in range(3)]
    assert all(torch.equal(results[0].tokens, other.tokens) for other in results)
    assert torch.equal(results[0].tokens, engine.act(prompts, pixels).tokens)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("lengths", [[6], [6, 2, 9]], ids=["one", "ragged"])
def test_graph_replay_equals_eager(checkpoint: Checkpoint, lengths: list[int]) -> None:
    prompts, pixels = batch(lengths)
    wanted = engine_of(checkpoint.model).act(prompts, pixels).tokens
    engine = Engine(pack(checkpoint.model, torch.device("cuda"), torch.float32), 7, VOCABULARY)
    for _ in range(3):
        assert torch.equal(engine.act(prompts, pixels).tokens.cpu(), wanted)

"""Greedy decoding over a static cache: one pass reads image and prompt, further passes add the tokens of the action.

Every pass may carry guesses of tokens that are not yet known. A pass over c known tokens followed by w - 1 guesses
yields the w tokens after the known ones; those up to the first that contradicts its guess are what one-by-one decoding
would have chosen, so they are kept and nothing else is. Plain decoding is w = 1, with nothing to read back between
passes; speculation (`speculation.py`) is w > 1, with one number per row to read back.

Passes are functions of tensors alone and have fixed shapes: on a GPU each becomes a graph per shape (`graph.py`).

Shapes: B rows, I image channels, S pixels a side, P patches, D decoder size, T prompt tokens and guesses (padded
right), K tokens of an action, w width of a pass.
Source: Leviathan et al. 2023 (speculative decoding), for greedy choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from openvla.codec.batch import pad
from openvla.errors import InputError
from openvla.infer.cache import StaticCache
from openvla.infer.clock import Clock
from openvla.infer.fused_decoder import accelerated
from openvla.infer.fused_vision import accelerated_vision
from openvla.infer.graph import Graphed
from openvla.infer.speculation import Guess
from openvla.model.prismatic import OpenVLA
from openvla.nn.kernels import linear


@dataclass(frozen=True)
class Limits:
    """What the buffers may grow to. rows: observations of one call. prompt: text tokens of one prompt."""

    rows: int = 64
    prompt: int = 512


@dataclass(frozen=True)
class Progress:
    """Where each row is.

    tokens: int64 (B, K), the first `count` of them chosen, the others guesses. probabilities: float32 (B, K).
    count: int64 (B, 1), chosen tokens. length: int64 (B, 1), positions of image and prompt.
    """

    tokens: Int[Tensor, "B K"]
    probabilities: Float[Tensor, "B K"]
    count: Int[Tensor, "B 1"]
    length: Int[Tensor, "B 1"]


@dataclass(frozen=True)
class Generation:
    """tokens: int64 (B, K). probabilities: float32 (B, K). seconds: by phase. passes: over the decoder, all counted."""

    tokens: Int[Tensor, "B K"]
    probabilities: Float[Tensor, "B K"]
    seconds: dict[str, float]
    passes: int


class Engine:
    """Decodes with a packed model (`packing.py`).

    count: K, tokens of an action. choices: token ids that may be chosen. bucket: prompts are padded to a multiple of
    it, and calls to a power of two rows, so that a GPU meets few shapes; 1 pads only what the call needs.
    """

    def __init__(
        self, model: OpenVLA, count: int, choices: range, limits: Limits | None = None, bucket: int | None = None
    ) -> None:
        self.model, self.count, self.choices = model, count, choices
        self.limits = limits or Limits()
        embedding = model.language_model.model.embed_tokens.weight
        self.device, self.dtype = embedding.device, embedding.dtype
        self.bucket = bucket or (16 if self.device.type == "cuda" else 1)
        self._decoder = accelerated(model.language_model.model)
        self._encode = accelerated_vision(model.vision_backbone)
        head = model.language_model.lm_head
        self._head = head.weight[choices.start : choices.stop].detach()
        bias = getattr(head, "bias", None)
        self._head_bias = None if bias is None else bias[choices.start : choices.stop]
        self._offsets = torch.arange(count + 1, device=self.device)
        self.cache = self._new_cache(1, self.bucket)
        self._capture_anew()

    @torch.inference_mode()
    def act(
        self, prompts: Sequence[Sequence[int]], pixels: Float[Tensor, "B I S S"], guess: Guess | None = None
    ) -> Generation:
        """K tokens for each prompt and image.

        guess: speculate with these guesses; the tokens are the same without.
        Raises InputError for more rows or longer prompts than the limits, and for other images than the model takes.
        """
        self.check(prompts)
        clock, rows = Clock(self.device), len(prompts)
        guesses = np.zeros((rows, self.count), np.int64) if guess is None else guess(np.zeros((rows, 0), np.int64))
        patches = self.see(self._filled(pixels, rows))
        clock.lap("vision")
        progress = self.read(prompts, patches, range(rows), guesses, 0 if guess is None else self.count - 1)
        clock.lap("prefill")
        if guess is None:
            progress, passes = self.extend(progress, 1, self.count - 1), self.count
        else:
            progress, passes = self._speculate(progress, guess, rows)
        clock.lap("decode")
        tokens, probabilities = progress.tokens[:rows].clone(), progress.probabilities[:rows].clone()
        return Generation(tokens, probabilities, clock.seconds(), passes)

    def see(self, pixels: Float[Tensor, "B I S S"]) -> Float[Tensor, "B P D"]:
        """Embeddings of the images. Raises InputError for another number or size of them than the model takes."""
        config = self.model.config
        size, channels = config.encoders[0].image_size, 3 * len(config.encoders) * config.images
        if pixels.shape[1:] != (channels, size, size):
            raise InputError(
                f"there are {pixels.shape[1]} image channels of {pixels.shape[2]} x {pixels.shape[3]} pixels, but the "
                f"model takes {channels} of {size} x {size}: {config.images} images of 3 channels for each of "
                f"{len(config.encoders)} encoders; send as many images as it was trained on"
            )
        (patches,) = self._see(pixels.to(self.device).to(self.dtype))
        return patches

    def read(
        self,
        prompts: Sequence[Sequence[int]],
        patches: Float[Tensor, "N P D"],
        rows: Sequence[int],
        guesses: NDArray[np.int64],
        width: int,
    ) -> Progress:
        """Read prompts, images and `width` of the guesses (B, K) into `rows` of the cache; choose the first tokens."""
        extra = len(patches) - len(prompts)  # rows that only fill up the call repeat the last one
        lines = [[*prompt, *guess[:width]] for prompt, guess in zip(prompts, guesses, strict=True)]
        ids, _ = pad(lines + lines[-1:] * extra, 0)
        ids = np.pad(ids, ((0, 0), (0, -ids.shape[1] % self.bucket)))
        self._make_room(max(*rows, len(patches) - 1) + 1, ids.shape[1])
        length = np.array([[len(prompt) + patches.shape[1]] for prompt in prompts])
        padded = [np.concatenate([each, each[-1:].repeat(extra, 0)]) for each in (length, np.array(rows), guesses)]
        length, targets, tokens = self._on_device(*padded)
        tokens, probabilities, count = self._read(width, *self._on_device(ids), length, targets, tokens, patches)
        return Progress(tokens, probabilities, count, length)

    def extend(self, progress: Progress, width: int, passes: int) -> Progress:
        """`passes` more passes, each over the newest token and `width - 1` guesses of every row."""
        state = (progress.tokens, progress.probabilities, progress.count)
        tokens, probabilities, count = self._extend(width, passes, *state, progress.length)
        return Progress(tokens, probabilities, count, progress.length)

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Raise InputError for more or longer prompts than the limits."""
        self.check_rows(len(prompts))
        longest = max(map(len, prompts))
        if longest > self.limits.prompt:
            raise InputError(
                f"the prompt has {longest} tokens, and the policy was loaded for at most {self.limits.prompt}; shorten "
                f"the instruction, or load it with max_prompt={longest}"
            )

    def check_rows(self, rows: int) -> None:
        """Raise InputError for more rows than the limits."""
        if rows > self.limits.rows:
            raise InputError(
                f"the batch has {rows} observations, and the policy was loaded for at most {self.limits.rows}; "
                f"send fewer at a time, or load it with max_batch={rows}"
            )

    def _speculate(self, progress: Progress, guess: Guess, rows: int) -> tuple[Progress, int]:
        """Passes with new guesses until every row is complete."""
        passes = 1
        while (known := int(progress.count.min())) < self.count:
            tokens = progress.tokens.cpu().numpy()
            unknown = np.arange(self.count) >= progress.count.cpu().numpy()
            tokens[:rows] = np.where(unknown[:rows], guess(tokens[:rows, :known]), tokens[:rows])
            progress = replace(progress, tokens=self._on_device(tokens)[0])
            progress = self.extend(progress, self.count - known, 1)
            passes += 1
        return progress, passes

    # What follows runs on the device alone, with fixed shapes.

    def _see_pass(self, pixels: Float[Tensor, "B I S S"]) -> tuple[Tensor, ...]:
        return (self.model.projector(self._encode(pixels)),)

    def _read_pass(
        self,
        width: int,
        ids: Int[Tensor, "B T"],
        length: Int[Tensor, "B 1"],
        rows: Int[Tensor, "B"],
        tokens: Int[Tensor, "B K"],
        patches: Float[Tensor, "B P D"],
    ) -> tuple[Tensor, ...]:
        decoder = self._decoder
        text = decoder.embed_tokens(ids)
        fused = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
        self.cache.start(rows)
        positions = torch.arange(fused.shape[1], device=ids.device).expand(len(ids), -1)
        hidden = decoder(fused, positions, None, self.cache)
        wanted = length - 1 + self._offsets[: width + 1]
        hidden = hidden.gather(1, wanted[..., None].expand(-1, -1, hidden.shape[-1]))
        return self._choose(hidden, tokens, torch.zeros_like(tokens, dtype=torch.float32), torch.zeros_like(length))

    def _extend_pass(
        self,
        width: int,
        passes: int,
        tokens: Int[Tensor, "B K"],
        probabilities: Float[Tensor, "B K"],
        count: Int[Tensor, "B 1"],
        length: Int[Tensor, "B 1"],
    ) -> tuple[Tensor, ...]:
        decoder = self._decoder
        for _ in range(passes):
            index = count - 1 + self._offsets[:width]
            fed = decoder.embed_tokens(tokens.gather(1, index.clamp(max=self.count - 1)))
            positions = length + index
            hidden = decoder(fed, positions, self.cache.extend(positions), self.cache)
            tokens, probabilities, count = self._choose(hidden, tokens, probabilities, count)
        return tokens, probabilities, count

    def _choose(
        self,
        hidden: Float[Tensor, "B w D"],
        tokens: Int[Tensor, "B K"],
        probabilities: Float[Tensor, "B K"],
        count: Int[Tensor, "B 1"],
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"], Int[Tensor, "B 1"]]:
        """Take over the most probable tokens that follow known ones: the first, and each behind a guess that holds."""
        scores = linear(hidden, self._head, self._head_bias).float()
        best = scores.argmax(-1)
        chosen = best + self.choices.start
        probability = (scores.gather(-1, best[..., None]) - scores.logsumexp(-1, keepdim=True)).exp()[..., 0]
        offsets = self._offsets[: hidden.shape[1]]
        index = count + offsets
        held = tokens.gather(1, index.clamp(max=self.count - 1)) == chosen
        accepted = held[:, :-1].long().cumprod(1).sum(1, keepdim=True)
        target = index.where((offsets <= accepted) & (index < self.count), self.count)  # one column more, cut off again
        tokens = F.pad(tokens, (0, 1)).scatter(1, target, chosen)[:, : self.count]
        probabilities = F.pad(probabilities, (0, 1)).scatter(1, target, probability)[:, : self.count]
        return tokens, probabilities, (count + accepted + 1).clamp(max=self.count)

    def _make_room(self, rows: int, prompt: int) -> None:
        """Let the cache hold so many rows and prompt tokens, and what it holds already."""
        rows, old = max(rows, self.cache.rows), self.cache
        fresh = self._new_cache(rows, prompt) if rows > old.rows or self._slots(prompt) > old.capacity else old
        if fresh is not old:
            fresh.keys[:, : old.rows, :, : old.capacity] = old.keys
            fresh.values[:, : old.rows, :, : old.capacity] = old.values
            self.cache = fresh
            self._capture_anew()

    def _new_cache(self, rows: int, prompt: int) -> StaticCache:
        slots = max(self._slots(prompt), self.cache.capacity if hasattr(self, "cache") else 0)
        return StaticCache(self.model.config.decoder, rows, slots, self.dtype, self.device)

    def _slots(self, prompt: int) -> int:
        """Slots for a prompt, its action, and the guesses of a pass over the end of it; a multiple of 64."""
        return -(-(self.model.config.num_patches + prompt + 2 * self.count) // 64) * 64

    def _capture_anew(self) -> None:
        """Forget all graphs, which belong to a former cache."""
        self._see = Graphed(self._see_pass, self.device)
        self._read = Graphed(self._read_pass, self.device)
        self._extend = Graphed(self._extend_pass, self.device)

    def _filled(self, pixels: Tensor, rows: int) -> Tensor:
        """On a GPU, repeat the last image up to the next power of two rows."""
        wanted = rows if self.bucket == 1 else 1 << (rows - 1).bit_length()
        return torch.cat([pixels, pixels[-1:].expand(wanted - rows, -1, -1, -1)]) if wanted > rows else pixels

    def _on_device(self, *arrays: NDArray[Any]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays)

"""Write a checkpoint of full size with random weights, in the published layout, and measure how it loads.

    python scripts/random_checkpoint.py /scratch/random-7b                  15.1 GB, in little memory
    python scripts/random_checkpoint.py /scratch/random-7b --measure        also: plain reading, loading, first logits

What it measures does not depend on the values, so these are one block of normal numbers over and over, each tensor
starting elsewhere in it; norms are ones. An existing directory is only measured.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from openvla.codec.published import images_of
from openvla.errors import CheckpointError
from openvla.files import new_directory
from openvla.model.checkpoint import load_checkpoint
from openvla.model.documents import processor_of
from openvla.model.lazy import nbytes, tensor_chunks
from openvla.model.merge_check import fixed_input
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA
from openvla.model.published import write_config
from openvla.model.shards import write_weights

DTYPE = torch.bfloat16
BLOCK_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class RandomTensor:
    """A tensor of values from `block`, from the place `start` on; ones where the block is None."""

    shape: tuple[int, ...]
    block: Tensor | None
    start: int = 0
    dtype: torch.dtype = DTYPE

    def mapped(self) -> Tensor:
        raise NotImplementedError("random tensors are only written")

    def chunks(self) -> Iterator[memoryview]:
        left = math.prod(self.shape)
        block = torch.ones(left, dtype=self.dtype) if self.block is None else self.block.roll(-self.start)
        while left:
            yield from tensor_chunks(block[:left])
            left -= min(left, len(block))


def write(target: Path, preset_name: str, seed: int) -> None:
    """Write the checkpoint, whole or not at all."""
    preset = PRESETS[preset_name]
    with torch.device("meta"):
        expected = OpenVLA(preset.model).state_dict()
    block = torch.randn(BLOCK_VALUES, generator=torch.Generator().manual_seed(seed)).mul_(0.02).to(DTYPE)
    chance = random.Random(seed)
    tensors = {
        name: RandomTensor(tuple(t.shape), None if "norm" in name else block, chance.randrange(BLOCK_VALUES))
        for name, t in expected.items()
    }
    config = write_config(preset)
    images = images_of(preset.timm_ids, config["image_sizes"], preset.resize, preset_name)
    with new_directory(target, CheckpointError) as place:
        (place / "config.json").write_text(json.dumps(config, indent=2))
        (place / "preprocessor_config.json").write_text(json.dumps(processor_of(images), indent=2))
        write_weights(place, tensors)
    size = sum(map(nbytes, tensors.values())) / 1e9
    print(f"{target}: {len(tensors)} tensors, {size:.2f} GB; peak memory {memory_gb():.2f} GB")


def measure(directory: Path) -> None:
    """Time plain reading of the files, loading, and the first logits; and the peak of memory beside the weights."""
    files = sorted(directory.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files) / 1e9
    start = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as stream:
            buffer = bytearray(8 << 20)
            while stream.readinto(buffer):
                pass
    print(f"plain reading: {time.perf_counter() - start:.1f} s for {size:.2f} GB")
    start = time.perf_counter()
    model = load_checkpoint(directory).model
    print(f"loading: {time.perf_counter() - start:.1f} s, {memory_gb():.2f} GB peak")
    with torch.inference_mode():
        logits = model(*fixed_input(model.config, DTYPE)).logits
    peak = memory_gb()
    print(f"first logits {list(logits.shape)}: {time.perf_counter() - start:.1f} s after the start of loading")
    print(f"peak memory: {peak:.2f} GB, {peak / size:.3f} of the weights")


def memory_gb() -> float:
    """Most memory that this process has held, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--preset", default="openvla-7b", choices=sorted(PRESETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    if not options.directory.exists():
        write(options.directory, options.preset, options.seed)
    if options.measure:
        measure(options.directory)


if __name__ == "__main__":
    main()

"""Linear layers whose weights are held in 8 or 4 bits, on kernels of torch and of ours.

    int8   one scale per output row; the input is quantised per token at each call, products are summed exactly in int32
    int4   16 levels per group of 64 weights of a row; the input stays as it is
    fp8    e4m3, one scale per output row; the input is quantised per token at each call (CUDA)

On a GPU, up to 16 rows go through kernels of ours (`gpu_kernels.py`) that leave the input as it is in all three.

Per token, not per call: what a row of the input gives does not depend on the rows beside it, so that a batch answers as
each of its members alone. Every class keeps its weights in one portable form (its buffers, which are what is saved)
and adds what the kernel of the device wants.

Shapes: M input rows, K input channels, N output channels, G groups of 64 along K, R and L: N and K rounded up to 64.
Source: Dettmers et al. 2022 (LLM.int8), section 2 (row-wise scales); Lin et al. 2024 (AWQ), equation 1 (groups);
ATen/native/cpu/int4mm_kernel.cpp, weight_to_int4pack_kernel (the tiles of 64 rows).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from openvla.errors import UsageError
from openvla.nn import amx, cpu_kernels
from openvla.nn.kernels import gpu_kernels
from openvla.nn.nibbles import BLOCKS, ROWS, TILE, Order, deinterleave, interleave

GROUP = 64
"""Weights of a row that share scale and offset in int4."""


class QuantizedLinear(nn.Module):
    """y = x W^T + b. Subclasses say how W is held (`encode`), what a kernel needs (`settle`), how it runs (`product`).

    rows, columns: N and K of the weight. bits: of memory per weight, scales of groups included.
    """

    bits: float
    bias: Tensor | None

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    @classmethod
    def of(cls, weight: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None = None) -> QuantizedLinear:
        """The layer of this weight, on its device; one of the `meta` device becomes random numbers."""
        layer = cls(weight.shape[0], weight.shape[1])
        layer.fill({**cls.encode(weight), **({} if bias is None else {"bias": bias})})
        return layer

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors that `portable` gave."""
        for name, tensor in {"bias": None, **tensors}.items():
            self.register_buffer(name, tensor)
        self.settle()

    @staticmethod
    def encode(weight: Float[Tensor, "N K"]) -> dict[str, Tensor]:
        """The portable form of a weight, by name."""
        raise NotImplementedError

    def settle(self) -> None:
        """Make ready what the kernel of the buffers' device needs."""

    def product(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        """The product x W^T, in any type."""
        raise NotImplementedError

    def portable(self) -> dict[str, Tensor]:
        """The tensors to save."""
        return dict(self.named_buffers())

    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B N"]:
        y = self.product(x.reshape(-1, self.columns)).to(x.dtype).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.columns} -> {self.rows}"


class Int8Linear(QuantizedLinear):
    """Eight bits a weight. On a CPU the kernel may have an order of its own, which replaces the portable one."""

    bits = 8
    weight: Tensor
    scale: Tensor

    @staticmethod
    def encode(weight: Float[Tensor, "N K"]) -> dict[str, Tensor]:
        if weight.is_meta:
            return {"weight": random_bytes(weight.shape).view(torch.int8), "scale": torch.full((len(weight),), 2e-4)}
        scale = weight.abs().amax(1).float().clamp(min=1e-12) / 127
        return {"weight": torch.round(weight / scale[:, None]).to(torch.int8), "scale": scale}

    def settle(self) -> None:
        if self.weight.device.type == "cpu":
            self.weight = cpu_kernels.arranged_8_bits(self.weight)
            self._zeros = torch.zeros(self.rows, dtype=torch.int32)
        else:  # cuBLAS takes sizes that are multiples of 8
            self._padded = filled(self.weight, 8)

    def portable(self) -> dict[str, Tensor]:
        plain = self.weight.to_dense().t().contiguous() if self.weight.is_mkldnn else self.weight
        return {**super().portable(), "weight": plain}

    def product(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        if self.weight.device.type == "cpu":
            return cpu_kernels.eight_bits(x, self.weight, self.scale, self._zeros)
        gpu = gpu_kernels()
        if len(x) <= gpu.ROWS:
            return gpu.eight_bits(x.bfloat16(), self.weight, self.scale)
        levels, step = gpu.per_token(widened(x, self._padded.shape[1]), torch.int8)
        return gpu.dequantise(
            torch.ops.aten._int_mm(levels, self._padded.t())[:, : self.rows], step, self.scale, x.dtype
        )


class Int4Linear(QuantizedLinear):
    """Four bits a weight, `level - 8` times the group's step plus the group's offset.

    Two rows of a tile of 64, d and d + 32, share a byte, and columns follow each other (R / 64, L, 32): the order of
    torch's AVX-512 kernel, which uses a mapped file as it is. Rows and columns are filled up with zeros. GPUs and
    processors with AMX have orders of their own (`nibbles`).
    """

    bits = 4 + 32 / GROUP
    levels: Tensor
    steps: Tensor
    _order: Order | None = None

    @staticmethod
    def encode(weight: Float[Tensor, "N K"]) -> dict[str, Tensor]:
        rows, columns = (size + -size % GROUP for size in weight.shape)
        if weight.is_meta:
            steps = torch.tensor([0.004, 0.002]).bfloat16().expand(columns // GROUP, rows, 2).contiguous()
            return {"levels": random_bytes((rows, columns // 2)), "steps": steps}
        padded = F.pad(weight, (0, columns - weight.shape[1], 0, rows - weight.shape[0]))
        groups = padded.unflatten(1, (-1, GROUP)).float()
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        step = ((high - low) / 15).clamp(min=1e-8).bfloat16()
        offset = (low + 8 * step.float()).bfloat16()
        levels = torch.round((groups - offset.float()[..., None]) / step.float()[..., None] + 8).clamp(0, 15)
        steps = torch.stack([step, offset], dim=-1).transpose(0, 1).contiguous()
        return {"levels": interleave(levels.to(torch.uint8).flatten(1)), "steps": steps}

    def settle(self) -> None:
        if self.levels.is_cuda:
            self.reorder(ROWS)
        elif amx.available():
            self.reorder(BLOCKS)
            self.levels, self.steps = amx.on_large_pages(self.levels), amx.on_large_pages(self.steps)
        else:
            ours = _native_order_is_ours()
            self._packed = self.levels if ours else cpu_kernels.arranged_4_bits(deinterleave(self.levels))

    def reorder(self, order: Order) -> None:
        """From the portable order to that of a kernel."""
        self._order = order
        self.levels, self.steps = order.levels(self.levels), order.steps(self.steps)

    def portable(self) -> dict[str, Tensor]:
        found = super().portable()
        if self._order is not None:
            found |= {"levels": self._order.tile_levels(self.levels), "steps": self._order.tile_steps(self.steps)}
        return found

    def product(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        padded = widened(x, self.levels.shape[1] * 2).bfloat16()
        if self._order is ROWS:
            gpu = gpu_kernels()
            few = len(x) <= gpu.ROWS
            y = (
                gpu.four_bits(padded, self.levels, self.steps)
                if few
                else F.linear(padded, gpu.unpack(self.levels, self.steps))
            )
        elif self._order is BLOCKS:
            y = amx.four_bits(padded, self.levels, self.steps)
        else:
            y = cpu_kernels.four_bits(padded, self._packed, self.levels, self.steps)
        return y[:, : self.rows]


class Fp8Linear(QuantizedLinear):
    """Eight bits a weight as a float with four exponent bits, for GPUs that multiply it."""

    bits = 8
    weight: Tensor
    scale: Tensor

    @staticmethod
    def encode(weight: Float[Tensor, "N K"]) -> dict[str, Tensor]:
        if weight.is_meta:
            levels = random_bytes(weight.shape).bitwise_and_(0xBF).view(torch.float8_e4m3fn)  # below 2: no NaN
            return {"weight": levels, "scale": torch.full((1, len(weight)), 0.02)}
        scale = weight.abs().amax(1).float().clamp(min=1e-12) / 448
        return {"weight": (weight / scale[:, None]).to(torch.float8_e4m3fn), "scale": scale[None]}

    def settle(self) -> None:  # cuBLAS takes sizes that are multiples of 16
        self._padded = filled(self.weight.view(torch.uint8), 16).view(torch.float8_e4m3fn)
        self._scales = F.pad(self.scale, (0, -self.rows % 16))

    def product(self, x: Float[Tensor, "M K"]) -> Float[Tensor, "M N"]:
        gpu = gpu_kernels()
        if len(x) <= gpu.ROWS:
            return gpu.eight_bits(x.bfloat16(), self.weight, self.scale)
        levels, step = gpu.per_token(widened(x, self._padded.shape[1]), torch.float8_e4m3fn)
        y = torch.ops.aten._scaled_mm(
            levels, self._padded.t(), step, self._scales, out_dtype=torch.bfloat16, use_fast_accum=True
        )
        return y[:, : self.rows]


PRECISIONS: dict[str, type[QuantizedLinear]] = {"int8": Int8Linear, "int4": Int4Linear, "fp8": Fp8Linear}


def check_precision(name: str, device: torch.device) -> None:
    """Raise UsageError where `device` has no kernel for the precision `name`, a key of `PRECISIONS`."""
    usable = {"int8": ("cpu", "cuda"), "int4": ("cpu", "cuda"), "fp8": ("cuda",)}[name]
    if device.type not in usable:
        raise UsageError(
            f"quantize={name!r} runs on {' and '.join(usable)}, not on {device.type}; "
            f"choose {' or '.join(repr(other) for other in PRECISIONS if other != name)}, or leave it out"
        )
    if name == "fp8" and torch.cuda.get_device_capability(device) < (8, 9):
        major, minor = torch.cuda.get_device_capability(device)
        raise UsageError(
            f"quantize='fp8' needs a GPU of compute capability 8.9 or higher, and this one has {major}.{minor}; "
            "choose 'int8' or 'int4'"
        )


def random_bytes(shape: tuple[int, ...] | torch.Size) -> UInt8[Tensor, "..."]:
    """Uniform bytes; one megabyte, repeated, so that billions cost no more than writing them."""
    count = torch.Size(shape).numel()
    drawn = torch.randint(0, 256, (min(count, 1 << 20),), dtype=torch.uint8)
    return drawn.repeat(-(-count // max(1, len(drawn))))[:count].view(shape)


def widened(x: Float[Tensor, "M K"], columns: int) -> Float[Tensor, "M L"]:
    """With zeros up to so many columns; x itself where it has them, because padding by nothing copies."""
    return F.pad(x, (0, columns - x.shape[1])) if columns > x.shape[1] else x


def filled(weight: Shaped[Tensor, "N K"], multiple: int) -> Shaped[Tensor, "R L"]:
    """With zeros up to multiples in both axes; `weight` itself where it has them."""
    rows, columns = -weight.shape[0] % multiple, -weight.shape[1] % multiple
    return F.pad(weight, (0, columns, 0, rows)) if rows or columns else weight


def _native_order_is_ours() -> bool:
    """Whether this processor's int4 kernel keeps weights in the order of `interleave`, tried on one tile."""
    nibbles = (torch.arange(TILE * GROUP) % 13).to(torch.uint8).view(TILE, GROUP)
    return torch.equal(cpu_kernels.arranged_4_bits(nibbles), interleave(nibbles))

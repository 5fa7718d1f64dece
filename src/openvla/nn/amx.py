"""A transformer in bfloat16, 8 or 4 bits on Intel processors with tile registers (AMX), faster than by torch's kernels.

The sources in `native/` are compiled by this machine's C++ compiler when they are first needed, and kept in the cache.
Where the processor has no AMX, or there is no compiler, there are no kernels, and those of torch are used.

Shapes: M input rows, K input channels, N output channels; R, L: N and K rounded up to 64; H = L / 2; G = L / 64 groups.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import mmap
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int8, UInt8
from torch import Tensor, nn

from openvla.files import cache_home

SOURCES = Path(__file__).parent / "native"
SETS = "fma avx512f avx512bw avx512vl avx512dq avx512bf16 amx-tile amx-int8 amx-bf16"
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", *(f"-m{each}" for each in SETS.split())]
NEEDED = {"amx_tile", "amx_int8", "amx_bf16", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"}
BF16, INT8, INT4 = range(3)

_PAGE = 2 << 20
"""Bytes of a large page."""


def available() -> bool:
    """Whether the kernels can be used on this machine; compiles them the first time."""
    return _library() is not None


def applies(*tensors: Tensor | None) -> bool:
    """Whether the kernels take these: in bfloat16 on this processor, where no gradient is wanted."""
    there = [each for each in tensors if each is not None]
    fits = all(each.device.type == "cpu" and not each.requires_grad for each in there)
    return fits and _halves(there) and available()


def plain(
    x: Float[Tensor, "*B K"], weight: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None = None
) -> Float[Tensor, "*B N"]:
    """The product x W^T + b in bfloat16."""
    return _product(BF16, x, weight, bias=bias)


def eight_bits(x: Float[Tensor, "M K"], weight: Int8[Tensor, "N K"], scale: Float[Tensor, "N"]) -> Float[Tensor, "M N"]:
    """The product of x in levels per token, in its type (bfloat16 or float32); scale: the step of each row of W."""
    return _product(INT8, x, weight, scale=scale)


def four_bits(
    x: Float[Tensor, "M L"], levels: UInt8[Tensor, "R H"], steps: Float[Tensor, "R G 2"]
) -> Float[Tensor, "M R"]:
    """The product in bfloat16; levels and steps in the order `nibbles.BLOCKS`."""
    return _product(INT4, x, levels, steps=steps)


def on_large_pages(weight: Tensor) -> Tensor:
    """The same in pages of 2 MB, where Linux has them; to look up small ones takes a tenth of the time of a token."""
    whole = weight.nbytes // _PAGE * _PAGE
    if not whole:
        return weight.clone(memory_format=torch.contiguous_format)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed since the last copy would stay, and the memory grow
    memory = mmap.mmap(-1, weight.nbytes + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room = torch.frombuffer(memory, dtype=torch.uint8)
    first = -room.data_ptr() % _PAGE
    with contextlib.suppress(OSError):  # a Linux built without them
        memory.madvise(mmap.MADV_HUGEPAGE, first, whole)
    return room[first : first + weight.nbytes].view(weight.dtype).view(weight.shape).copy_(weight)


class AmxLinear(nn.Linear):
    """A linear layer in bfloat16 for inference; it takes over the weights of `layer`."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Float[Tensor, "*B K"]) -> Float[Tensor, "*B N"]:  # noqa: A002 - the name in nn.Linear
        return plain(input, self.weight, self.bias)


def with_amx(model: nn.Module) -> None:
    """Give the linear layers of `model` to the kernels, where these apply; they are for inference from then on."""
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and applies(*(each.detach() for each in child.parameters())):
                parent.register_module(name, AmxLinear(child))


def rms_norm(
    x: Float[Tensor, "*B K"], weight: Float[Tensor, "K"], eps: float, add: Float[Tensor, "*B K"] | None = None
) -> tuple[Float[Tensor, "*B K"], Float[Tensor, "*B K"]]:
    """The sum x + add, or x itself, and its `RMSNorm` (decoder_layers.py)."""
    x, add, summed, y = _normed(x, add, weight)
    _call("rms_norm", x.numel() // x.shape[-1], x.shape[-1], x, add, weight, eps, summed, y)
    return summed, y


def layer_norm(
    x: Float[Tensor, "*B K"],
    norm: nn.LayerNorm,
    add: Float[Tensor, "*B K"] | None = None,
    factor: Float[Tensor, "K"] | None = None,
) -> tuple[Float[Tensor, "*B K"], Float[Tensor, "*B K"]]:
    """The sum x + add * factor, or x itself where nothing is to be added, and its layer norm."""
    x, add, summed, y = _normed(x, add, factor, norm.weight, norm.bias)
    sizes = (x.numel() // x.shape[-1], x.shape[-1])
    _call("layer_norm", *sizes, x, add, factor, norm.weight, norm.bias, norm.eps, summed, y)
    return summed, y


def swiglu(x: Float[Tensor, "*B N"]) -> Float[Tensor, "*B n"]:
    """silu(gate) * up for gate and up side by side in the last axis."""
    x, n = x.contiguous(), x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], n)
    _call("swiglu", y.numel() // n, n, x, y)
    return y


def rotate(
    x: Float[Tensor, "B T C"], cos: Float[Tensor, "b 1 T D"], sin: Float[Tensor, "b 1 T D"], heads: int
) -> Float[Tensor, "B H T D"]:
    """`rotate` (attention.py) of the first heads of x; `cos` and `sin` for one row or for each."""
    x, cos, sin = x.contiguous(), cos.to(x.dtype).contiguous(), sin.to(x.dtype).contiguous()
    y = x.new_empty(len(x), heads, x.shape[1], cos.shape[-1])
    _call("rotate", len(x), x.shape[1], heads, cos.shape[-1], x.shape[2], len(cos), x, cos, sin, y)
    return y


def attention(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    mask: Bool[Tensor, "b 1 T S"] | None,
    causal: bool,
) -> Float[Tensor, "B T H*D"]:
    """`attention` (attention.py); a query's result does not depend on the queries beside it."""
    batch, heads, tokens, dim = query.shape
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value)]
    strides = [stride for part in parts for stride in part.stride()[:3]]
    looked = None if mask is None else mask.expand(batch, -1, -1, -1).contiguous()
    y = query.new_empty(batch, tokens, heads * dim)
    sizes = (batch, heads, key.shape[1], tokens, key.shape[2], dim, int(causal))
    _call("attention", *sizes, *parts, (ctypes.c_int64 * 9)(*strides), looked, y)
    return y


def _normed(x: Tensor, add: Tensor | None, *gains: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """What a norm reads and writes."""
    _check(_halves((x, add, *gains)))
    x = x.contiguous()
    if add is None:
        return x, None, x, torch.empty_like(x)
    return x, add.contiguous(), torch.empty_like(x), torch.empty_like(x)


def _product(
    kind: int,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    steps: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    wide = kind == INT8 and x.dtype == torch.float32
    _check(weight.is_contiguous() and _halves((None if wide else x, steps, bias)))
    x, columns = x.contiguous(), x.shape[-1]
    y = x.new_empty(*x.shape[:-1], len(weight))
    sizes = (kind, int(wide), x.numel() // columns, len(weight), columns)
    _call("linear", *sizes, x, weight, scale, steps, bias, y)
    return y


def _halves(tensors: Iterable[Tensor | None]) -> bool:
    """Whether those that are there are in bfloat16."""
    return all(each is None or each.dtype == torch.bfloat16 for each in tensors)


def _check(fits: bool) -> None:
    """Raise TypeError for what a kernel would read as something else."""
    if not fits:
        raise TypeError("the kernels for AMX take contiguous weights, and bfloat16; convert the model as a whole")


def _call(name: str, *arguments: Any) -> None:
    """A kernel of the library, which takes tensors by their address, and the number of threads last."""
    library = _library()
    assert library is not None
    given = [each.data_ptr() if isinstance(each, Tensor) else each for each in arguments]
    getattr(library, f"openvla_{name}")(*given, torch.get_num_threads())


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernels, ready for use; None where there can be none."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if platform.system() != "Linux" or not _features() >= NEEDED or not compiler or shutil.which(compiler[0]) is None:
        return None
    try:
        library = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        told = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        problem = f"the kernels for AMX cannot be built with {shlex.join(compiler)}, and slower ones are used: {told}"
        warnings.warn(problem, stacklevel=2)
        return None
    flag, count, pointer, real = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    for name, types in {
        "linear": [flag] * 2 + [count] * 3 + [pointer] * 6,
        "rms_norm": [count] * 2 + [pointer] * 3 + [real] + [pointer] * 2,
        "layer_norm": [count] * 2 + [pointer] * 5 + [real] + [pointer] * 2,
        "swiglu": [count] * 2 + [pointer] * 2,
        "rotate": [count] * 6 + [pointer] * 4,
        "attention": [count] * 6 + [flag] + [pointer] * 6,
    }.items():
        function = getattr(library, f"openvla_{name}")
        function.argtypes, function.restype = [*types, flag], None
    return library if library.openvla_ask_for_tiles() == 0 else None


def _features() -> set[str]:
    """What Linux says that this processor can."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _compiled(compiler: list[str]) -> Path:
    """The shared library of the sources, compiled unless it lies in the cache.

    OpenMP is left unlinked: it is the one that torch has loaded, whose threads are then used by both.
    """
    sources = sorted(SOURCES.iterdir())
    told = b"".join(each.read_bytes() for each in sources) + " ".join((*compiler, *FLAGS)).encode()
    target = cache_home() / "kernels" / f"amx-{hashlib.sha256(told).hexdigest()[:16]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        objects = [Path(place) / f"{each.stem}.o" for each in sources if each.suffix == ".cpp"]
        for each in objects:
            _run(*compiler, *FLAGS, "-c", str(SOURCES / f"{each.stem}.cpp"), "-o", str(each))
        made = Path(place) / target.name
        _run(*compiler, "-shared", *map(str, objects), "-o", str(made))
        made.replace(target)
    return target


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)

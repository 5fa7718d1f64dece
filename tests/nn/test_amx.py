from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvla.nn import amx
from openvla.nn.attention import rotate
from openvla.nn.cpu_kernels import per_token_int8
from openvla.nn.decoder_layers import RMSNorm
from openvla.nn.nibbles import BLOCKS, deinterleave
from openvla.nn.quantized import GROUP, Int4Linear, Int8Linear, widened

Product = Callable[[Tensor], Tensor]

KINDS = ["bf16", "int8", "int4"]
ROUNDING = 2.0**-8
"""How far, of its size, a number moves at most when it is rounded to bfloat16."""

on_linux = pytest.mark.skipif(platform.system() != "Linux", reason="the kernels are built on Linux only")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A processor with AMX, and an empty cache, where compiled kernels will lie in the folder that is given."""
    monkeypatch.setattr(amx, "_features", lambda: amx.NEEDED)
    monkeypatch.setenv("OPENVLA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def halves(*shape: int) -> Tensor:
    return random(*shape).bfloat16()


def product(kind: str, rows: int, columns: int) -> Product:
    """A product with a random weight; rows and columns of four bits are filled up."""
    weight = random(rows, columns)
    if kind == "bf16":
        half = weight.bfloat16()
        return lambda x: amx.plain(x, half)
    if kind == "int8":
        eight = Int8Linear.encode(weight)
        return lambda x: amx.eight_bits(x, eight["weight"], eight["scale"])
    four = Int4Linear.encode(weight)
    levels, steps = BLOCKS.levels(four["levels"]), BLOCKS.steps(four["steps"])
    return lambda x: amx.four_bits(widened(x, levels.shape[1] * 2), levels, steps)


def assert_rounded_alike(found: Tensor, wanted: Tensor) -> None:
    """Equal but for one element in a thousand, which is the next number in bfloat16."""
    assert found.dtype == wanted.dtype == torch.bfloat16
    assert found.shape == wanted.shape
    assert (found != wanted).float().mean() <= 0.001
    places = [each.contiguous().view(torch.int16).int() for each in (found, wanted)]
    assert (places[0] - places[1]).abs().max() <= 1


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


def compiler(path: Path, *lines: str) -> str:
    """One that writes a word to the file that its last argument names."""
    return script(path, *lines, 'for last; do :; done; echo made > "$last"')


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 32, 33, 300, 700])
@pytest.mark.parametrize("shape", [(64, 64), (100, 688), (33, 1100), (1, 7), (700, 96)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_the_exact_one_rounded_once(rows: int, shape: tuple[int, int], biased: bool) -> None:
    x, weight, bias = halves(rows, shape[1]), halves(*shape), halves(shape[0])
    exact = x.double() @ weight.double().t() + (bias.double() if biased else 0)
    found = amx.plain(x, weight, bias if biased else None)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=ROUNDING, atol=1e-6 * shape[1])


@pytest.mark.usefixtures("needs_amx")
def test_leading_axes_stay() -> None:
    x, weight, bias = halves(2, 3, 5, 48), halves(40, 48), halves(40)
    y = amx.plain(x, weight, bias)
    assert y.shape == (2, 3, 5, 40)
    assert torch.equal(y.flatten(0, 2), amx.plain(x.flatten(0, 2), weight, bias))
    assert torch.equal(amx.plain(x[0, 0, 0], weight, bias), y[0, 0, 0])


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_give_no_rows(kind: str) -> None:
    assert product(kind, 64, 128)(halves(0, 128)).shape == (0, 64)


@pytest.mark.usefixtures("needs_amx")
def test_a_layer_is_the_plain_one_with_its_own_weights() -> None:
    model = nn.Sequential(nn.Linear(48, 80), nn.GELU(), nn.Linear(80, 33, bias=False)).bfloat16()
    names, x = list(model.state_dict()), halves(5, 48)
    with torch.inference_mode():
        wanted = model(x)
        amx.with_amx(model)
        assert [type(each) for each in model] == [amx.AmxLinear, nn.GELU, amx.AmxLinear]
        assert list(model.state_dict()) == names
        torch.testing.assert_close(model(x), wanted, rtol=0.02, atol=0.01)


@pytest.mark.usefixtures("needs_amx")
def test_layers_of_another_type_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Bilinear(8, 8, 8).bfloat16())
    amx.with_amx(model)
    assert [type(each) for each in model] == [nn.Linear, nn.Bilinear]


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(100, 688), (1100, 130)], ids=str)
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: str, shape: tuple[int, int]) -> None:
    multiply, x = product(kind, *shape), halves(700, shape[1])
    x[3] *= 100
    together = multiply(x)
    for rows in (1, 2, 7, 15, 16, 17, 32, 33, 300, 321):
        assert torch.equal(multiply(x[:rows]), together[:rows])
        assert torch.equal(multiply(x[-rows:]), together[-rows:])


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 16, 40])
def test_a_product_does_not_depend_on_the_number_of_threads(
    kind: str, rows: int, threads: Callable[[int], None]
) -> None:
    multiply, x, found = product(kind, 1100, 200), halves(rows, 200), []
    for count in (1, 2, 3):
        threads(count)
        found.append(multiply(x))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("rows", [1, 17, 330])
@pytest.mark.parametrize("shape", [(64, 64), (100, 688), (33, 1101), (1, 7)], ids=str)
def test_int8_products_are_exact_sums_of_levels(rows: int, shape: tuple[int, int]) -> None:
    x, stored = random(rows, shape[1]), Int8Linear.encode(random(*shape))
    for dtype, rtol in ((torch.float32, 4e-7), (torch.bfloat16, ROUNDING)):
        levels, step = per_token_int8(x.to(dtype))
        exact = (levels.double() @ stored["weight"].double().t()) * stored["scale"].double() * step.double()
        found = amx.eight_bits(x.to(dtype), stored["weight"], stored["scale"])
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, rtol=rtol, atol=0)


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("rows", [1, 17, 330])
@pytest.mark.parametrize("shape", [(64, 64), (100, 688), (33, 1101), (1, 7)], ids=str)
def test_int4_weights_are_level_less_eight_times_step_plus_offset(rows: int, shape: tuple[int, int]) -> None:
    stored, x = Int4Linear.encode(random(*shape)), halves(rows, shape[1])
    step, offset = stored["steps"].float().transpose(0, 1).repeat_interleave(GROUP, 1).unbind(-1)
    weight = ((deinterleave(stored["levels"]).float() - 8) * step + offset).bfloat16()
    padded = widened(x, weight.shape[1])
    found = amx.four_bits(padded, BLOCKS.levels(stored["levels"]), BLOCKS.steps(stored["steps"]))
    assert found.dtype == torch.bfloat16
    exact = padded.double() @ weight.double().t()
    torch.testing.assert_close(found.double(), exact, rtol=ROUNDING, atol=1e-6 * weight.shape[1])


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("shape", [(1, 64), (3, 100), (2, 7, 688), (40, 1)], ids=str)
def test_rms_norm_is_that_of_the_module(shape: tuple[int, ...]) -> None:
    x, add, norm = halves(*shape), halves(*shape).flip(0) * 3, RMSNorm(shape[-1], 1e-5).bfloat16()
    norm.weight.data = halves(shape[-1])
    same, y = amx.rms_norm(x, norm.weight, norm.eps)
    assert torch.equal(same, x)
    assert_rounded_alike(y, norm(x))
    summed, y = amx.rms_norm(x, norm.weight, norm.eps, add)
    assert torch.equal(summed, x + add)
    assert_rounded_alike(y, norm(x + add))


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("shape", [(1, 64), (3, 100), (2, 7, 688)], ids=str)
def test_layer_norm_is_that_of_the_module(shape: tuple[int, ...]) -> None:
    x, add, factor = halves(*shape) + 2, halves(*shape).flip(0) * 3, random(2, shape[-1])[0].bfloat16()
    norm = nn.LayerNorm(shape[-1], 1e-6).bfloat16()
    norm.weight.data, norm.bias.data = halves(shape[-1]), random(3, shape[-1])[0].bfloat16()
    same, y = amx.layer_norm(x, norm)
    assert torch.equal(same, x)
    assert_rounded_alike(y, norm(x))
    for more, wanted in ((None, x + add), (factor, x + add * factor)):
        summed, y = amx.layer_norm(x, norm, add, more)
        assert torch.equal(summed, wanted)
        assert_rounded_alike(y, norm(wanted))


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("shape", [(1, 64), (3, 100), (2, 7, 688), (40, 1)], ids=str)
def test_swiglu_is_silu_of_the_gates_times_the_others(shape: tuple[int, ...]) -> None:
    gate, up = halves(*shape) * 4, halves(*shape).flip(0)
    assert_rounded_alike(amx.swiglu(torch.cat([gate, up], dim=-1)), F.silu(gate) * up)


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("gate", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_swiglu_of_large_gates_is_the_limit(gate: float) -> None:
    x = torch.tensor([[gate] * 20 + [2.0] * 20]).bfloat16()
    wanted = F.silu(x[:, :20]) * 2
    torch.testing.assert_close(amx.swiglu(x), wanted, rtol=0, atol=1e-30)


@pytest.mark.usefixtures("needs_amx")
def test_swiglu_is_right_for_every_gate() -> None:
    """Of those below 80, where an exponential is not infinite, and not too small for float32."""
    gate = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16)
    gate = gate[(gate.abs() < 80) & (gate.abs() > 1e-37)]
    assert_rounded_alike(amx.swiglu(torch.cat([gate, torch.ones_like(gate)])), F.silu(gate))


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("size", [8, 64, 80])
@pytest.mark.parametrize("angle_rows", [1, 3])
def test_rotate_is_that_of_the_first_heads(angle_rows: int, size: int) -> None:
    x, angle = halves(3, 5, 4 * size), random(angle_rows, 1, 5, size // 2).repeat(1, 1, 1, 2)
    heads = x.unflatten(2, (4, size)).transpose(1, 2)
    for count in (1, 3, 4):
        found = amx.rotate(x, angle.cos(), angle.sin(), count)
        assert_rounded_alike(found, rotate(heads[:, :count], angle.cos(), angle.sin()))


def every(x: Tensor) -> list[Tensor]:
    """What each kernel makes of x (rows, 64)."""
    norm, angle = nn.LayerNorm(64).bfloat16(), random(1, 1, len(x), 16).repeat(1, 1, 1, 2)
    return [
        *(product(kind, 40, 64)(x) for kind in KINDS),
        amx.rms_norm(x, norm.weight, 1e-5, x)[1],
        amx.layer_norm(x, norm, x, norm.weight)[1],
        amx.swiglu(x),
        amx.rotate(x[None], angle.cos(), angle.sin(), 2)[0].transpose(0, 1),
    ]


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("rows", [3, 40])
def test_an_input_is_not_changed(rows: int) -> None:
    x = halves(rows, 64)
    before = x.clone()
    every(x)
    assert torch.equal(x, before)


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("rows", [3, 40])
def test_an_input_may_lie_in_any_order(rows: int) -> None:
    x = halves(64, rows).t()
    assert not x.is_contiguous()
    for found, wanted in zip(every(x), every(x.contiguous()), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.usefixtures("needs_amx")
def test_a_step_does_not_depend_on_the_number_of_threads(threads: Callable[[int], None]) -> None:
    x, found = halves(40, 64), []
    for count in (1, 3):
        threads(count)
        found.append(every(x))
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))


@pytest.mark.usefixtures("needs_amx")
def test_callers_at_once_do_not_disturb_each_other() -> None:
    inputs = [halves(rows, 64) for rows in (1, 7, 16, 17, 40, 330)] * 5
    wanted = [every(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(every, inputs), wanted, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("rows", [3, 40])
def test_a_nan_stays_in_its_row(rows: int) -> None:
    x = halves(rows, 64)
    spoilt = x.clone()
    spoilt[1, 5] = math.nan
    for found, wanted in zip(every(spoilt), every(x), strict=True):
        assert torch.equal(found[2:], wanted[2:])
        assert torch.equal(found[0], wanted[0])


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("column", [0, 5, 63])
@pytest.mark.parametrize("rows", [1, 40])
def test_a_nan_shows_in_all_of_its_row(kind: str, column: int, rows: int) -> None:
    x = halves(rows, 64)
    x[0, column] = math.nan
    assert product(kind, 40, 64)(x)[0].isnan().all()


@pytest.mark.usefixtures("needs_amx")
def test_large_numbers_overflow_where_they_do_in_the_reference() -> None:
    x, weight = halves(20, 64) * 1e36, halves(40, 64)
    x[3], weight[7] = 1e37, 2
    exact = x.double() @ weight.double().t()
    wanted = exact.bfloat16()
    found = amx.plain(x, weight)
    assert wanted[3, 7].isinf()
    assert torch.equal(found.isfinite(), wanted.isfinite())
    finite = wanted.isfinite()
    torch.testing.assert_close(found[finite].double(), exact[finite], rtol=ROUNDING, atol=1e31)


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("size", [1e-3, 1e15])
def test_norms_of_large_and_small_numbers_are_those_of_the_modules(size: float) -> None:
    x, norm, rms = halves(20, 100) * size, nn.LayerNorm(100).bfloat16(), RMSNorm(100, 1e-5).bfloat16()
    assert_rounded_alike(amx.rms_norm(x, rms.weight, rms.eps)[1], rms(x))
    assert_rounded_alike(amx.layer_norm(x, norm)[1], norm(x))


EDGE = """
import ctypes, mmap, torch
from torch import nn
from openvla.nn import amx
from openvla.nn.nibbles import BLOCKS
from openvla.nn.quantized import Int4Linear, Int8Linear

libc = ctypes.CDLL(None, use_errno=True)
assert amx.available()

def at_the_end(tensor):
    size = -(-tensor.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + size
    assert libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, 0) == 0
    room = torch.frombuffer(memory, dtype=torch.uint8, count=size)
    return room[size - tensor.nbytes :].view(tensor.dtype).view(tensor.shape).copy_(tensor)

def check(function, *tensors):
    assert torch.equal(function(*map(at_the_end, tensors)), function(*tensors))

for rows in (1, 17, 40):
    for n, k in ((64, 64), (33, 7), (101, 1101), (97, 129)):
        x, weight = torch.randn(rows, k), torch.randn(n, k)
        check(amx.plain, x.bfloat16(), weight.bfloat16(), torch.randn(n).bfloat16())
        for each in (x, x.bfloat16()):
            check(amx.eight_bits, each, *Int8Linear.encode(weight).values())
        four = Int4Linear.encode(weight)
        x = torch.randn(rows, four["levels"].shape[1] * 2).bfloat16()
        check(amx.four_bits, x, BLOCKS.levels(four["levels"]), BLOCKS.steps(four["steps"]))
        x, w, norm = torch.randn(rows, k).bfloat16(), torch.randn(k).bfloat16(), nn.LayerNorm(k).bfloat16()
        check(lambda x, w, add: amx.rms_norm(x, w, 1e-5, add)[1], x, w, x)
        check(lambda x, w, add: amx.layer_norm(x, norm, add, w)[1], x, w, x)
        check(amx.swiglu, torch.randn(rows, 2 * k).bfloat16())
print("done")
"""


@pytest.mark.usefixtures("needs_amx")
def test_nothing_is_read_behind_the_end_of_a_tensor() -> None:
    """In a process of its own, which such a read ends."""
    ran = subprocess.run([sys.executable, "-c", EDGE], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


@on_linux
def test_kernels_that_cannot_be_compiled_are_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, builds: Path
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "broken", "echo no such register >&2", "exit 1"))
    with pytest.warns(match="the kernels for AMX cannot be built with .*broken, and .*: no such register") as told:
        assert amx._library.__wrapped__() is None
    assert len(told) == 1
    assert list(builds.iterdir()) == []


@on_linux
def test_a_library_that_cannot_be_loaded_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, builds: Path
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path / "liar"))
    with pytest.warns(match="the kernels for AMX cannot be built") as told:
        assert amx._library.__wrapped__() is None
    assert len(told) == 1


@pytest.mark.usefixtures("builds")
def test_without_a_compiler_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert amx._library.__wrapped__() is None


@pytest.mark.parametrize("missing", sorted(amx.NEEDED))
def test_on_another_processor_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, builds: Path, missing: str) -> None:
    monkeypatch.setattr(amx, "_features", lambda: amx.NEEDED - {missing})
    assert amx._library.__wrapped__() is None
    assert not builds.exists()


@on_linux
def test_what_was_compiled_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, builds: Path) -> None:
    made = amx._compiled([compiler(tmp_path / "compiler")])
    assert list(builds.iterdir()) == [made]

    def refuse(*_command: str) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(amx, "_run", refuse)
    assert amx._compiled([str(tmp_path / "compiler")]) == made
    with pytest.raises(AssertionError, match="compiled again"):
        amx._compiled([compiler(tmp_path / "another")])


@on_linux
def test_two_processes_may_compile_at_once(tmp_path: Path, builds: Path) -> None:
    """Each compiles as soon as the other does."""
    meet = tmp_path / "meet"
    meet.mkdir()
    both = f'touch {meet}/$PPID; for i in $(seq 300); do [ "$(ls {meet} | wc -l)" = 2 ] && break; sleep 0.1; done'
    name = compiler(tmp_path / "slow", both)
    command = [sys.executable, "-c", f"from openvla.nn import amx; print(amx._compiled([{name!r}]))"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) for _ in range(2)]
    found = [each.communicate()[0].strip() for each in running]
    assert [each.returncode for each in running] == [0, 0]
    assert len(list(meet.iterdir())) == 2
    assert [Path(each) for each in found] == list(builds.iterdir()) * 2


@on_linux
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8, torch.float32])
@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (1025, 2048), (3, 1 << 20)], ids=str)
def test_values_on_large_pages_are_the_same(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = (random(*shape) * 50).to(dtype)
    for each in (weight, weight.t(), weight[:, ::2]):
        found = amx.on_large_pages(each)
        assert torch.equal(found, each)
        assert (found.dtype, found.shape, found.is_contiguous()) == (dtype, each.shape, True)
        if each.nbytes >= amx._PAGE:
            assert found.data_ptr() % amx._PAGE == 0


def looked_back(rows: int, queries: int, keys: int) -> Tensor:
    return torch.ones(rows, 1, queries, keys, dtype=torch.bool).tril(keys - queries)


@pytest.mark.usefixtures("needs_amx")
@pytest.mark.parametrize("way", ["all", "causal", "mask"])
@pytest.mark.parametrize(("heads", "groups", "dim"), [(4, 4, 64), (4, 2, 72), (3, 1, 128), (2, 2, 7)])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (33, 33), (50, 50), (1, 61), (17, 40)])
def test_attention_is_that_of_torch(way: str, heads: int, groups: int, dim: int, queries: int, keys: int) -> None:
    if way == "causal" and queries != keys:
        pytest.skip("torch aligns it with the first key")
    query = halves(2, queries, heads, dim).transpose(1, 2)
    key, value = halves(2, groups, keys, dim), halves(2, keys, groups, dim).transpose(1, 2)
    mask = looked_back(2, queries, keys) if way == "mask" else None
    exact = F.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=mask, is_causal=way == "causal", enable_gqa=True
    )
    found = amx.attention(query, key, value, mask, way == "causal")
    torch.testing.assert_close(found.double(), exact.transpose(1, 2).flatten(2), rtol=0.01, atol=0.01)


@pytest.mark.usefixtures("needs_amx")
def test_a_query_does_not_depend_on_the_queries_beside_it_nor_on_keys_that_it_may_not_see() -> None:
    query, key, value = halves(1, 4, 40, 64), halves(1, 4, 40, 64), halves(1, 4, 40, 64)
    together = amx.attention(query, key, value, None, True)
    assert torch.equal(together, amx.attention(query, key, value, looked_back(1, 40, 40), False))
    for at in (0, 15, 16, 31, 39):
        alone = amx.attention(query[:, :, at : at + 1], key[:, :, : at + 1], value[:, :, : at + 1], None, False)
        assert torch.equal(alone[0, 0], together[0, at])


@pytest.mark.usefixtures("needs_amx")
def test_a_nan_among_the_queries_shows_in_its_head_alone() -> None:
    query, key, value = halves(1, 2, 20, 64), halves(1, 2, 20, 64), halves(1, 2, 20, 64)
    clean = amx.attention(query, key, value, None, False)
    query[0, 1, 3, 5] = math.nan
    found = amx.attention(query, key, value, None, False)
    assert found[0, 3, 64:].isnan().all()
    found[0, 3, 64:] = clean[0, 3, 64:]
    assert torch.equal(found, clean)


@pytest.mark.usefixtures("needs_amx")
def test_attention_is_left_to_torch_where_gradients_or_other_types_are_wanted() -> None:
    x = halves(1, 2, 5, 16)
    assert amx.applies(x, x, x)
    assert not amx.applies(x.clone().requires_grad_(), x, x)
    assert not amx.applies(x.float(), x.float(), x.float())


@pytest.mark.usefixtures("needs_amx")
def test_what_would_be_read_as_something_else_is_refused() -> None:
    x, weight = halves(3, 64), halves(64, 64)
    for call in (
        lambda: amx.plain(x.float(), weight),
        lambda: amx.plain(x, weight.t()),
        lambda: amx.plain(x, weight, weight[0].float()),
        lambda: amx.rms_norm(x, weight[0].float(), 1e-6),
        lambda: amx.layer_norm(x, nn.LayerNorm(64)),
    ):
        with pytest.raises(TypeError, match="AMX take contiguous weights, and bfloat16; convert the model as a whole"):
            call()

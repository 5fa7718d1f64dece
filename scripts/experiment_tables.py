"""The outcomes of `experiments.py` as Markdown; every figure is read from a cell, and a missing cell says so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openvla.sim.evaluation import wilson

Cells = Mapping[str, Mapping[str, Any]]

NONE = "not measured"
BF16 = "bf16"


def render(grid: Mapping[str, Any], cells: Cells, workers: int) -> str:
    """Both tables, and what a reader needs to repeat them."""
    parts = [
        "### Methods",
        methods_table(grid, cells),
        "### Precisions",
        precisions_table(grid, cells),
        "### Precisions of the tuned policies",
        tuned_table(grid, cells),
        "### Circumstances",
        surroundings(cells, workers),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def methods_table(grid: Mapping[str, Any], cells: Cells) -> str:
    """Success after fine-tuning by each method, and what the fine-tuning took."""
    tasks, seeds = grid["tasks"], grid["seeds"]
    header = ["method", "success", "95 % interval", "by seed", *tasks, "trained weights", "of all", "peak memory, MiB"]
    rows = [["none", *_success([cells.get("before")], tasks), "0", "0 %", "-", "-"]]
    for method in grid["methods"]:
        played = [cells.get(f"eval-{method}-{seed}-{BF16}") for seed in seeds]
        trained = [cell for seed in seeds if (cell := cells.get(f"train-{method}-{seed}"))]
        rows.append([method, *_success(played, tasks), *_costs(trained), _pace(cells.get(f"pace-{method}"))])
    smallest = cells.get("train-smallest")
    note = f"\n\nA model of almost no size, trained in the same way, takes {_mib(smallest)} MiB." if smallest else ""
    return _table([*header, "s per step"], rows) + note


def precisions_table(grid: Mapping[str, Any], cells: Cells) -> str:
    """The policy itself, its decoder in fewer bits: success on what it knows, memory, speed."""
    header = ["precision", "success", "95 % interval", "weights read, MB", "peak memory, MiB", "ms per action, p50"]
    rows: list[list[str]] = []
    for name in grid["precisions"]:
        rate, interval = _pooled([cells.get(f"known-{name}")])
        rows.append([name, rate, interval, *_speed(cells.get(f"bench-{name}"))])
    return _table([*header, "p99", "actions/s"], rows)


def tuned_table(grid: Mapping[str, Any], cells: Cells) -> str:
    """Fine-tuned policies, their decoder in fewer bits; all seeds together."""
    rows: list[list[str]] = []
    for method in (each for each in grid["quantized_methods"] if each in grid["methods"]):
        for name in grid["precisions"]:
            played = [cells.get(f"eval-{method}-{seed}-{name}") for seed in grid["seeds"]]
            rows.append([method, name, *_pooled(played), _by_seed(played)])
    return _table(["method", "precision", "success", "95 % interval", "by seed"], rows) if rows else ""


def surroundings(cells: Cells, workers: int) -> str:
    """Date, machine, versions, and one command of each kind."""
    if not cells:
        return NONE
    told = [cell["circumstances"] for cell in cells.values()]
    dates = sorted(each["date"] for each in told)
    facts = [f"{dates[0]} to {dates[-1]}"]
    facts += [", ".join(sorted({each[name] for each in told})) for name in ("machine", "versions")]
    facts.append(f"{workers} commands side by side, one thread each; `bench` and the steps that are timed alone")
    commands = {re.match(r"[a-z]+", name)[0]: cell["command"] for name, cell in reversed(cells.items())}  # type: ignore[index]
    lines = "\n".join(re.sub(r"(/\S+)?/(data|runs)\b", r"OUTPUT/\2", each) for each in commands.values())
    return "; ".join(facts) + f". One command of each kind:\n\n```sh\n{lines}\n```"


def _success(played: Sequence[Mapping[str, Any] | None], tasks: Sequence[str]) -> list[str]:
    found = [cell["result"]["tasks"] for cell in played if cell]
    by_task = [
        _rate(sum(each[task]["successes"] for each in found), sum(each[task]["episodes"] for each in found))
        for task in tasks
    ]
    return [*_pooled(played), _by_seed(played), *by_task]


def _pooled(played: Sequence[Mapping[str, Any] | None]) -> tuple[str, str]:
    """Successes of all episodes, and their interval; complete or not at all."""
    if not all(played):
        return NONE, "-"
    counts = [_count(cell) for cell in played if cell]
    successes, episodes = (sum(column) for column in zip(*counts, strict=True))
    low, high = wilson(successes, episodes)
    return f"{_rate(successes, episodes)} of {episodes}", f"{low:.1%} to {high:.1%}".replace("%", " %")


def _by_seed(played: Sequence[Mapping[str, Any] | None]) -> str:
    return ", ".join("-" if cell is None else str(_count(cell)[0]) for cell in played)


def _count(cell: Mapping[str, Any]) -> tuple[int, int]:
    tasks = cell["result"]["tasks"].values()
    return sum(task["successes"] for task in tasks), sum(task["episodes"] for task in tasks)


def _rate(successes: int, episodes: int) -> str:
    return f"{100 * successes / episodes:.0f} %" if episodes else "-"


def _costs(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    """Trained weights, their share, and the mean over seeds of memory."""
    if not trained:
        return 3 * ["-"]
    metrics = trained[0]["result"]["metrics"]
    total, some = metrics["parameters/total"], metrics["parameters/trainable"]
    mean = sum(cell["peak_memory_bytes"] for cell in trained) / len(trained)
    return [f"{some:,.0f}", f"{100 * some / total:.1f} %", _mib({"peak_memory_bytes": mean})]


def _pace(timed: Mapping[str, Any] | None) -> str:
    return f"{timed['seconds_per_step']:.2f}" if timed else NONE


def _speed(bench: Mapping[str, Any] | None) -> list[str]:
    if bench is None:
        return [NONE, *4 * ["-"]]
    found = bench["result"]
    times = found["phases_ms"]["total"]
    return [
        f"{(found['work']['vision']['bytes'] + found['work']['prefill']['bytes']) / 1e6:.1f}",
        f"{found['peak_memory_bytes'] / 2**20:.0f}",
        f"{times['p50']:.1f}",
        f"{times['p99']:.1f}",
        f"{found['actions_per_s']:.1f}",
    ]


def _mib(cell: Mapping[str, Any]) -> str:
    return f"{cell['peak_memory_bytes'] / 2**20:.0f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

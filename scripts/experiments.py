"""The paper's two experiments, small: which weights to fine-tune, and how many bits a weight needs.

    python scripts/experiments.py --output experiments --document docs/experiments.md

The shipped policy learns new Meta-World tasks by each method and with several seeds, and is measured in closed loop;
then the shipped and the tuned policies are measured with their decoder in fewer bits. Every measurement (a cell) is
one command of the ordinary command line, in a process of its own with one numerical thread. Its outcome is one file
below OUTPUT/cells: what is there is not measured again, so a script that was stopped goes on with what is missing.
On two cores all of it takes about 35 minutes.

Source: Kim et al. 2024 (OpenVLA), sections 5.3 and 5.4, tables 1 and 2.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro
from experiment_runs import Bench, Cell
from experiment_tables import render

from openvla.errors import OpenVLAError, UsageError
from openvla.files import write_text

ADAPTERS = ("lora", "qlora")


@dataclass(frozen=True)
class Grid:
    """What is compared. The defaults are the published experiment's, scaled to two cores."""

    checkpoint: str = "nano"
    """The policy to fine-tune."""
    tasks: tuple[str, ...] = ("handle-press", "plate-slide")
    """New tasks, learned together."""
    methods: tuple[str, ...] = ("full", "frozen-vision", "last-layer", "sandwich", "lora", "qlora")
    """Ways to fine-tune."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each orders the data, draws adapters, and chooses the starts of the episodes."""
    demonstrations: int = 40
    """Expert episodes of each new task."""
    steps: int = 200
    """Training steps."""
    batch_size: int = 32
    """Examples per step."""
    learning_rate: float = 3e-4
    """Peak rate where weights are trained."""
    adapter_learning_rate: float = 1e-3
    """Peak rate of adapters."""
    rank: int = 32
    """Of the adapters."""
    episodes: int = 15
    """Episodes of each new task and seed."""
    precisions: tuple[str, ...] = ("bf16", "int8", "int4")
    """Of the decoder's matrices in closed loop; bf16 stands for the stored weights."""
    quantized_methods: tuple[str, ...] = ("full", "lora")
    """Methods whose policies are measured in every precision."""
    known_tasks: tuple[str, ...] = ()
    """Tasks on which the precisions of the policy itself are compared; where omitted, all that it was trained on."""
    known_episodes: int = 8
    """Episodes of each."""
    bench_runs: int = 200
    """Actions that are timed in each precision."""


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then write the tables."""

    output: Path = Path("experiments")
    """Directory of data, runs and cells."""
    grid: tyro.conf.OmitArgPrefixes[Grid] = Grid()
    """What is compared."""
    workers: int = 2
    """Cells at the same time; each has one thread."""
    minutes: float | None = None
    """No cell begins after so many minutes; run again to go on."""
    document: Path | None = None
    """Markdown file whose tables are replaced; they are printed where omitted."""


@dataclass(frozen=True)
class Stage:
    """Chains of cells, of which `workers` run side by side when the stage before is complete."""

    chains: list[list[Cell]]
    workers: int


def stages(grid: Grid, directory: Path, workers: int) -> list[Stage]:
    """Everything, in the order of its needs: demonstrations, tuned policies, precisions, what is timed."""
    data = directory / "data"
    record = ("--episodes", str(grid.demonstrations), "--noise", "0.5", "--gain", "0.5", "--workers", str(workers))
    recording = Cell("record", ("data", "generate", "--output", f"{data}", "--tasks", *grid.tasks, *record), data)
    tuned = [tuning(grid, directory, method, seed) for seed in grid.seeds for method in grid.methods]
    before = playing("before", grid.checkpoint, ("--tasks", *grid.tasks), grid.episodes, 0, "bf16")
    known = ("--tasks", *grid.known_tasks) if grid.known_tasks else ()
    shipped = [
        playing(f"known-{each}", grid.checkpoint, known, grid.known_episodes, 0, each) for each in grid.precisions
    ]
    fewer = [
        playing_tuned(grid, directory, method, seed, each)
        for seed in grid.seeds
        for method in grid.quantized_methods
        for each in grid.precisions
        if each != "bf16"
    ]
    timed = ("--checkpoint", grid.checkpoint, "--runs", str(grid.bench_runs))
    paces = [pace_of(grid, directory, method) for method in grid.methods]
    answers = [Cell(f"bench-{each}", ("bench", *timed, *precision(each))) for each in grid.precisions]
    return [
        Stage([[recording]], 1),
        Stage([*tuned, [before], [smallest(grid, directory)]], workers),
        Stage([[cell] for cell in (*shipped, *fewer)], workers),
        Stage([[*paces, *answers]], 1),
    ]


def tuning(grid: Grid, directory: Path, method: str, seed: int) -> list[Cell]:
    """One policy, fine-tuned and measured."""
    name = f"train-{method}-{seed}"
    return [
        training(grid, directory, name, grid.checkpoint, method, seed),
        playing_tuned(grid, directory, method, seed, "bf16"),
    ]


def pace_of(grid: Grid, directory: Path, method: str) -> Cell:
    """A few steps that are timed, with the machine to themselves."""
    return training(replace(grid, steps=20), directory, f"pace-{method}", grid.checkpoint, method, 0)


def training(grid: Grid, directory: Path, name: str, checkpoint: str, method: str, seed: int) -> Cell:
    """Fine-tune `checkpoint` on the new tasks."""
    rate = grid.adapter_learning_rate if method in ADAPTERS else grid.learning_rate
    output, steps = directory / "runs" / name, str(grid.steps)
    flags = {
        "checkpoint": checkpoint,
        "data": str(directory / "data"),
        "output": str(output),
        "method": method,
        "rank": str(grid.rank),
        "steps": steps,
        "batch-size": str(grid.batch_size),
        "learning-rate": f"{rate:g}",
        "schedule": "cosine",
        "warmup-ratio": "0.1",
        "seed": str(seed),
        "hold-out": "0",
        "save-every": steps,
        "log-every": "10",
        "workers": "1",
        "device": "cpu",
    }
    return Cell(name, ("finetune", *(word for flag, value in flags.items() for word in (f"--{flag}", value))), output)


def smallest(grid: Grid, directory: Path) -> Cell:
    """Training a model of almost no size: the memory that interpreter, libraries and loader take."""
    tiny = replace(grid, steps=10, batch_size=1)
    return training(tiny, directory, "train-smallest", "preset:micro", "full", 0)


def playing_tuned(grid: Grid, directory: Path, method: str, seed: int, bits: str) -> Cell:
    """Measure what a method made of the policy on the new tasks."""
    final = str(directory / "runs" / f"train-{method}-{seed}" / "final")
    # Seeds that are far apart give each policy starts of its own.
    return playing(f"eval-{method}-{seed}-{bits}", final, ("--tasks", *grid.tasks), grid.episodes, 1000 * seed, bits)


def playing(name: str, checkpoint: str, tasks: Sequence[str], episodes: int, seed: int, bits: str) -> Cell:
    """Measure `checkpoint` in closed loop."""
    count = ("--episodes", str(episodes), "--seed", str(seed))
    return Cell(name, ("eval", "--checkpoint", checkpoint, *tasks, *count, *precision(bits)))


def precision(name: str) -> tuple[str, ...]:
    """The flags that ask for a precision, on the CPU."""
    return ("--device", "cpu") if name == "bf16" else ("--device", "cpu", "--quantize", name)


def run(options: Options) -> str:
    """Measure what is missing and return the tables. Raises UsageError for a directory of another grid."""
    directory, grid = options.output.resolve(), options.grid
    if options.workers < 1:
        raise UsageError(f"{options.workers} workers measure nothing; give a number from 1")
    for name in ("cells", "logs", "runs"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    check_grid(directory / "grid.json", grid)
    plan = stages(grid, directory, options.workers)
    bench = Bench(directory, sum(len(chain) for stage in plan for chain in stage.chains), options.minutes)
    for stage in plan:
        bench.run(stage.chains, stage.workers)
    cells = {path.stem: json.loads(path.read_text()) for path in sorted((directory / "cells").glob("*.json"))}
    return render(asdict(grid), cells, options.workers)


def check_grid(path: Path, grid: Grid) -> None:
    """See that the cells beside `path` are of this grid. Raises UsageError where they are of another."""
    wanted = json.loads(json.dumps(asdict(grid)))
    if not path.exists():
        write_text(path, json.dumps(wanted, indent=1) + "\n", UsageError)
        return
    theirs = json.loads(path.read_text())
    changed = [f"{name} was {theirs.get(name)!r}" for name, value in wanted.items() if theirs.get(name) != value]
    if changed:
        raise UsageError(f"{path.parent} holds another grid: {'; '.join(changed)}; choose another --output")


def main() -> int:
    """The exit code: 0, or 2 after one sentence."""
    options = tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tables = run(options)
        if options.document is None:
            print(tables)
        else:
            put_between(options.document, tables)
    except OpenVLAError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


BEGIN, END = "<!-- tables: written by scripts/experiments.py -->", "<!-- end of tables -->"


def put_between(document: Path, tables: str) -> None:
    """Replace what stands between the two marks of `document`. Raises UsageError where they are not there."""
    text = document.read_text()
    if BEGIN not in text or END not in text:
        raise UsageError(f"{document} has no lines {BEGIN!r} and {END!r}; add them where the tables belong")
    before, rest = text.split(BEGIN, 1)
    write_text(document, f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{rest.split(END, 1)[1]}", UsageError)


if __name__ == "__main__":
    sys.exit(main())

"""`openvla train`: run a recipe from start to checkpoint.

The recipe comes first and decides the defaults of all other options, which are the settings of its first stage. A
setting that is named on the command line holds in every stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from openvla.cli.finetune import trained
from openvla.cli.output import Result, plain, table
from openvla.cli.parsing import parse as parse_options
from openvla.cli.train_report import ReportOptions, run_report
from openvla.errors import UsageError, lookup
from openvla.train.config import TrainConfig, settings_of

if TYPE_CHECKING:
    from openvla.train.loop import TrainResult
    from openvla.train.stage import Demonstrations, Stage

ROOTS = ("data", "output")
"""Directories that each stage divides as it needs."""

STARTS = ("checkpoint", "language_model", "vision_weights")
"""What the first stage starts from; others start where the one before them ends."""


@dataclass(frozen=True)
class Options(TrainConfig):
    """Run a training recipe: record its demonstrations where they are not there yet, train, save the checkpoint.

    Every setting of the recipe can be changed. A recipe may have several stages, each in a directory of its own below
    --output and --data; what is named here holds in all of them, what the weights start from in the first.
    """

    recipe: Annotated[str, tyro.conf.Suppress] = ""
    named: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    simulators: int = 2
    """Simulators that record side by side."""
    dry_run: bool = False
    """Only check the settings, and say what each stage will need."""
    json: bool = False
    """Print one JSON object and nothing else."""


def parse(prog: str, arguments: Sequence[str]) -> Options | ReportOptions | None:
    """The options of `openvla train RECIPE ...`, or those of --report; None after help was printed.

    Raises UsageError for a wrong line.
    """
    if any(word.partition("=")[0] == "--report" for word in arguments):
        return parse_options(ReportOptions, prog, arguments)
    from openvla.train.recipes import RECIPES
    from openvla.train.stage import summary

    if not arguments or arguments[0].startswith("-"):
        if set(arguments) & {"-h", "--help"}:
            rows = [(name, summary(recipe)) for name, recipe in RECIPES.items()]
            print(f"usage: {prog} RECIPE [OPTIONS]\n\n{table(('recipe', 'what it makes'), rows)}\n")
            print(f"`{prog} RECIPE --help` lists the settings of a recipe; every one can be changed.")
            print(f"`{prog} --report RUN ...` draws the curves of runs as an HTML page.")
            return None
        raise UsageError(f"name a recipe first: {', '.join(RECIPES)}; `{prog} --help` describes them")
    name, *rest = arguments
    first = lookup(name, RECIPES, "recipe")(Path("data") / name, Path("runs") / name)[0].config
    roots: dict[str, Any] = {"data": Path("data") / name, "output": Path("runs") / name}
    default = Options(**{**settings_of(first), **roots}, recipe=name)
    options = parse_options(Options, f"{prog} {name}", rest, default)
    return options and dataclasses.replace(options, named=named(rest))


def named(arguments: Sequence[str]) -> tuple[str, ...]:
    """The settings that a command line names.

    >>> named(["--batch-size", "8", "--no-augment", "--steps=3", "--json"])
    ('batch_size', 'augment', 'steps')
    """
    flags = [word[2:].partition("=")[0].replace("-", "_") for word in arguments if word.startswith("--")]
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    return tuple(flag for each in flags if (flag := each if each in fields else each.removeprefix("no_")) in fields)


def run(options: Options | ReportOptions) -> Result | None:
    """Run the stages in order, and hand back where the last checkpoint is and what was last measured."""
    if isinstance(options, ReportOptions):
        return run_report(options)
    stages = wanted(options)
    if options.dry_run:
        return described(options.recipe, stages)
    first, *others = stages
    result = run_stage(first, options)
    for stage in others:
        resumed = options.resume and stage.config.output.exists()
        result = run_stage(
            dataclasses.replace(stage, config=dataclasses.replace(stage.config, resume=resumed)), options
        )
    return trained(result)


def wanted(options: Options) -> list[Stage]:
    """The stages of the recipe with the settings that the command line names."""
    from openvla.train.recipes import RECIPES

    stages = lookup(options.recipe, RECIPES, "recipe")(options.data, options.output)
    changed = {name: getattr(options, name) for name in options.named if name not in ROOTS}
    later = {name: value for name, value in changed.items() if name not in STARTS}
    return [
        dataclasses.replace(
            stage,
            config=dataclasses.replace(stage.config, **(later if number else changed)),
            preset=None if "checkpoint" in changed else stage.preset,  # another model may have other sizes
        )
        for number, stage in enumerate(stages)
    ]


def run_stage(stage: Stage, options: Options) -> TrainResult:
    """Record what the stage needs where it is not there yet, and train."""
    from openvla.train.loop import train  # brings torch; a wrong name is reported before

    if stage.demonstrations is not None and not stage.config.data.exists():
        demonstrate(stage.config.data, stage.demonstrations, options.simulators)
    return train(stage.config, quiet=options.json)


def demonstrate(directory: Path, wanted: Demonstrations, simulators: int) -> None:
    """Record `wanted` as a data set below `directory`."""
    from openvla.data.recording import record_dataset

    record_dataset(
        directory,
        wanted.suite,
        None,
        wanted.episodes,
        seed=wanted.seed,
        noise=wanted.noise,
        image_size=wanted.image_size,
        workers=simulators,
        gain=wanted.gain,
    )


def described(recipe: str, stages: Sequence[Stage]) -> Result:
    """The settings of each stage, checked, and what it needs."""
    from openvla.train.data import members
    from openvla.train.setup import check
    from openvla.train.stage import needs

    rows: list[dict[str, Any]] = []
    for stage in stages:
        check(stage.config)
        members(stage.config)  # their names
        cards = None if stage.cards is None else dataclasses.asdict(stage.cards)
        plan = None if stage.preset is None else needs(stage)
        rows.append({"settings": plain(settings_of(stage.config)), "cards": cards, "plan": plan})
    return Result({"recipe": recipe, "stages": rows}, "\n\n".join(map(_readable, rows)))


def _readable(row: dict[str, Any]) -> str:
    lines = [table(("setting", "value"), [(name, str(value)) for name, value in row["settings"].items()])]
    cards, plan = row["cards"], row["plan"]
    if cards is not None:
        lines.append(f"for {cards['count']} card(s) with {cards['memory_gb']:g} GiB")
    if plan is not None:
        peak = plan["memory_bytes"]["peak"] / 2**30
        trainable, total = plan["parameters"]["trainable"], plan["parameters"]["total"]
        lines.append(f"{trainable:,} of {total:,} parameters are trained; about {peak:.1f} GiB on each device")
    if plan is not None and "hours" in plan:
        lines.append(f"about {plan['hours']:.3g} hours at {plan['hardware']['mfu']:.0%} of the cards' speed")
    return "\n".join(lines)

"""The table of verbs: one line each, and the module that answers it. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openvla.errors import UsageError, unknown


@dataclass(frozen=True)
class Verb:
    """One verb: its words, what it does, and the module with its `Options` and `run`."""

    name: str
    summary: str
    module: str


VERBS = {
    verb.name: verb
    for verb in (
        Verb("demo", "a policy acts, learns a new task, and is measured", "openvla.cli.demo"),
        Verb("predict", "one action for one image and one instruction", "openvla.cli.predict"),
        Verb("finetune", "adapt a checkpoint to a data set (full or LoRA)", "openvla.cli.finetune"),
        Verb("train", "run a training recipe from start to checkpoint", "openvla.cli.train"),
        Verb("eval", "measure success in closed loop in a simulator", "openvla.cli.evaluate"),
        Verb("bench", "how fast a policy answers on this machine", "openvla.cli.bench"),
        Verb("data generate", "record expert demonstrations as an RLDS data set", "openvla.cli.data_generate"),
        Verb("data inspect", "splits, features, instructions and ranges of a data set", "openvla.cli.data_inspect"),
        Verb("data stats", "the statistics that normalise a data set", "openvla.cli.data_stats"),
    )
}


def help_wanted(arguments: Sequence[str]) -> str | None:
    """The group of verbs whose list is asked for: "" for `--help`, "data" for `data --help`, else None."""
    match list(arguments):
        case ["-h" | "--help", *_]:
            return ""
        case [group, "-h" | "--help", *_] if group in _groups():
            return group
        case _:
            return None


def overview(group: str) -> str:
    """The list of all verbs, or of one group's."""
    prefix = f"{group} " if group else ""
    chosen = [verb for verb in VERBS.values() if verb.name.startswith(prefix)]
    width = max(len(verb.name) for verb in chosen)
    lines = [f"usage: openvla {prefix}VERB [OPTIONS]", ""]
    if not group:
        lines += ["OpenVLA: look at a camera image, read an instruction, emit a robot action.", ""]
    lines += ["verbs:", *(f"  {verb.name:{width}}  {verb.summary}" for verb in chosen), ""]
    lines += ["`openvla VERB --help` lists a verb's options; `openvla --version` prints the version."]
    return "\n".join(lines)


def find_verb(arguments: Sequence[str]) -> tuple[Verb, list[str]]:
    """Split a command line into its verb and the verb's own arguments.

    Raises UsageError, with the nearest names, where the line names no verb.
    """
    if not arguments:
        raise UsageError("a verb is missing; `openvla --help` lists them")
    words = 2 if arguments[0] in _groups() else 1
    name = " ".join(arguments[:words])
    if words == 2 and len(arguments) == 1:
        raise UsageError(f"`openvla {name}` needs one more word: {', '.join(_groups()[name])}")
    if name not in VERBS:
        raise UsageError(f"{unknown(name, VERBS, 'verb')} (`openvla --help` lists the verbs)")
    return VERBS[name], list(arguments[words:])


def _groups() -> dict[str, list[str]]:
    """The first words that need a second, with what may follow."""
    groups: dict[str, list[str]] = {}
    for name in VERBS:
        first, _, second = name.partition(" ")
        if second:
            groups.setdefault(first, []).append(second)
    return groups

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
        Verb("finetune", "adapt a checkpoint to a data set: full, in part, LoRA or QLoRA", "openvla.cli.finetune"),
        Verb("train", "run a training recipe from start to checkpoint", "openvla.cli.train"),
        Verb("plan", "parameters, memory and hours of a training run, before it starts", "openvla.cli.plan"),
        Verb("eval", "measure success in closed loop in a simulator", "openvla.cli.evaluate"),
        Verb("serve", "a policy for robots on the network, with a page to watch it", "openvla.cli.serve"),
        Verb("convert", "write a checkpoint in a published format, or merge an adapter", "openvla.cli.convert"),
        Verb("doctor", "prove that a checkpoint is what it says, and computes what it did", "openvla.cli.doctor"),
        Verb("bench", "how fast a policy answers on this machine", "openvla.cli.bench"),
        Verb("bench inference", "the same, by its full name", "openvla.cli.bench"),
        Verb("bench data", "how fast training frames are made, by stage", "openvla.cli.bench_data"),
        Verb("data generate", "record expert demonstrations as an RLDS data set", "openvla.cli.data_generate"),
        Verb("data index", "find every frame of a data set once, for training", "openvla.cli.data_index"),
        Verb("data convert", "a data set of any format to RLDS or LeRobot v3.0", "openvla.cli.data_convert"),
        Verb("data doctor", "what is wrong with a data set, and how to mend it", "openvla.cli.data_doctor"),
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
    words = 2 if arguments[0] in _groups() or (len(arguments) > 1 and " ".join(arguments[:2]) in VERBS) else 1
    name = " ".join(arguments[:words])
    if words == 2 and len(arguments) == 1:
        raise UsageError(f"`openvla {name}` needs one more word: {', '.join(_groups()[name])}")
    if name not in VERBS:
        raise UsageError(f"{unknown(name, VERBS, 'verb')} (`openvla --help` lists the verbs)")
    return VERBS[name], list(arguments[words:])


def _groups() -> dict[str, list[str]]:
    """The first words that are no verb of their own and need a second, with what may follow."""
    groups: dict[str, list[str]] = {}
    for name in VERBS:
        first, _, second = name.partition(" ")
        if second and first not in VERBS:
            groups.setdefault(first, []).append(second)
    return groups

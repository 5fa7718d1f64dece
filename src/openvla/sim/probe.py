"""Does the policy listen? Give every task another task's instruction, and see what its success falls to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openvla.errors import UsageError, lookup


def swapped_instructions(instructions: Mapping[str, str], tasks: Sequence[str]) -> dict[str, str]:
    """For each of `tasks` the instruction of its neighbour in the list: first and second exchange theirs, and so on.

    In an alphabetical list neighbours share a scene ("door-close", "door-open"), so the picture does not tell them
    apart. The odd one out takes the first task's. `instructions`: the suite's, by task.
    Raises UsageError for fewer than two tasks and for unknown ones.
    """
    tasks = list(dict.fromkeys(tasks))
    if len(tasks) < 2:
        raise UsageError(f"{len(tasks)} task has no other to exchange instructions with; name at least two tasks")
    neighbours = [tasks[n ^ 1] if n ^ 1 < len(tasks) else tasks[0] for n in range(len(tasks))]
    return {task: lookup(other, instructions, "task") for task, other in zip(tasks, neighbours, strict=True)}

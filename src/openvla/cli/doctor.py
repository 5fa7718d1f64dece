"""`openvla doctor`: whether a checkpoint is what it says it is, and computes what it did."""

from __future__ import annotations

import json as json_format
from dataclasses import dataclass

from openvla.cli.output import Result, table


@dataclass(frozen=True)
class Options:
    """Say what is in force and from which file; test the model; compare with its stored fingerprint."""

    checkpoint: str
    """A hub id, a checkpoint directory, a .pt file of a native run, or a shipped name such as "nano"."""
    write: bool = False
    """Store the fingerprint anew, if everything else is well."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, ..."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Examine, and hand back the findings; with a sentence where something is wrong."""
    from openvla.infer.doctor import diagnose

    found = diagnose(options.checkpoint, device=options.device, write=options.write)
    facts = [(name, json_format.dumps(fact["value"]), fact["from"]) for name, fact in found.facts.items()]
    words = {True: "ok", False: "FAILED", None: "-"}
    checks = [(words[check.ok], check.name, check.detail) for check in found.checks]
    text = f"{table(('in force', 'value', 'from'), facts)}\n\n{table(('', 'check', 'found'), checks)}"
    failure = "; ".join(f"{check.name}: {check.detail}" for check in found.failures)
    return Result(found.to_dict(), text, f"{options.checkpoint} is not well: {failure}" if failure else None)

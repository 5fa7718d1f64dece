"""Are two sets of actions compatible: do their numbers mean the same? In words, one finding per question.

Scale: how far a step goes, by the width between the 1 % and the 99 % quantile. Sign: whether an axis points the other
way; known where both data sets show how the robot moved, guessed where both lean clearly to opposite sides. Gripper:
whether it opens towards the same number, and in the same range. Rate: how many actions a second.

What differs is not lost for fine-tuning, which normalises by each set's own statistics; it matters where one set is
normalised with the statistics of the other, where both are mixed under one name, and where a policy drives a robot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from openvla.data.compatibility.differences import (
    DIFFERS,
    SAME,
    UNCLEAR,
    Finding,
    gripper,
    gripper_of,
    rate,
    scale,
    sign,
)
from openvla.data.compatibility.profiles import Profile


@dataclass(frozen=True)
class Comparison:
    """All answers about two profiles."""

    first: str
    second: str
    findings: tuple[Finding, ...] = field(default_factory=tuple)

    @property
    def compatible(self) -> bool:
        """Whether nothing is known to differ."""
        return all(finding.verdict != DIFFERS for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {
            "a": self.first,
            "b": self.second,
            "compatible": self.compatible,
            "findings": [dict(vars(finding)) for finding in self.findings],
        }

    @property
    def text(self) -> str:
        """The comparison in words."""
        differ = [finding.aspect for finding in self.findings if finding.verdict == DIFFERS]
        unclear = [finding.aspect for finding in self.findings if finding.verdict == UNCLEAR]
        verdict = "compatible"
        if differ:
            verdict = f"not compatible: {_listed(differ)} {'differ' if len(set(differ)) > 1 else 'differs'}"
        elif unclear:
            verdict = f"compatible, as far as is known ({_listed(unclear)} unclear)"
        head = [f"A: {self.first}", f"B: {self.second}", f"A and B are {verdict}", ""]
        return "\n".join(head + [f"{f.aspect:10} {f.verdict:8} {f.text}" for f in self.findings])


def compare(a: Profile, b: Profile) -> Comparison:
    """Everything that can be told of two sets of actions."""
    return Comparison(a.name, b.name, tuple(_findings(a, b)))


def _findings(a: Profile, b: Profile) -> Iterator[Finding]:
    if a.statistics.dim != b.statistics.dim:
        yield Finding("dimensions", DIFFERS, f"A has {a.statistics.dim} action dimensions, B {b.statistics.dim}")
    else:
        yield Finding("dimensions", SAME, f"both have {a.statistics.dim} action dimensions")
        motion = [n for n in range(a.statistics.dim) if n != gripper_of(a) and n != gripper_of(b)]
        yield from _some("scale", [scale(a, b, n) for n in motion], "every dimension moves as far in A as in B")
        yield from _some("sign", [sign(a, b, n) for n in motion], "no dimension points the other way")
        yield from gripper(a, b)
    yield rate(a.spec.control_hz, b.spec.control_hz)


def _some(aspect: str, findings: list[Finding], otherwise: str) -> Iterator[Finding]:
    """What is worth saying; one line where all is well."""
    notable = [finding for finding in findings if finding.verdict != SAME]
    unclear = [finding for finding in notable if finding.verdict == UNCLEAR]
    if len(unclear) > 1 and len({finding.text.partition(":")[2] for finding in unclear}) == 1:
        names = ", ".join(str(finding.dimension) for finding in unclear)
        merged = Finding(aspect, UNCLEAR, f"{names}:{unclear[0].text.partition(':')[2]}")
        notable = [*(finding for finding in notable if finding.verdict == DIFFERS), merged]
    yield from notable or [Finding(aspect, SAME, otherwise)]


def _listed(aspects: list[str]) -> str:
    return " and ".join(dict.fromkeys(aspects))

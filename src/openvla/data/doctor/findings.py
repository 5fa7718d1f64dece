"""The questions that `data doctor` asks of a data set's actions and frames, each answered with a finding.

What counts as too much follows from what users of the published model suffered from: idle steps teach a policy to
stand still, a gripper that means the opposite opens where it should close, high control rates give actions too small
to tell apart, an unlabelled episode cannot be trained on.

Shapes: N steps of all episodes, A action dimensions; the last one is taken for the gripper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.conversion.clean import noop_steps
from openvla.data.doctor.account import Account, EpisodeAccount

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
SEVERITIES = (ERROR, WARNING, NOTE, OK)
IDLE_RUN = 10
"""Steps in a row that do nothing, from which on they are called idle."""
FEW_EPISODES = 20
FAST_HZ = 10.0
SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One answer. number: the figure it rests on; remedy: what to do, empty where all is well; where: examples."""

    name: str
    severity: str
    number: float | None
    text: str
    remedy: str = ""
    where: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))


def amount(account: Account) -> Finding:
    """Whether there is enough to learn from."""
    count = len(account.episodes)
    shortest = min((episode.length for episode in account.episodes), default=0)
    text = f"{count} episodes, {account.steps} steps, the shortest has {shortest}"
    if count < FEW_EPISODES:
        return Finding("amount", WARNING, count, text, "record more: about 100 demonstrations of a task are usual")
    return Finding("amount", OK, count, text)


def dimensions(account: Account) -> Finding:
    """Whether every action has as many dimensions."""
    counts = Counter(episode.actions.shape[1] for episode in account.episodes)
    text = ", ".join(f"{dim} in {count} episodes" for dim, count in counts.most_common())
    if len(counts) > 1:
        odd = tuple(e.source for e in account.episodes if e not in account.alike)[:SHOWN]
        return Finding("action dimensions", ERROR, len(counts), text, "bring all to the same robot's actions", odd)
    return Finding("action dimensions", OK, len(counts), text)


def not_finite(account: Account) -> Finding:
    """NaN and infinity."""
    bad = [(e, int((~np.isfinite(e.actions)).any(axis=1).sum())) for e in account.episodes]
    actions, states = sum(count for _, count in bad), sum(e.bad_state for e in account.episodes)
    text = f"{actions} steps with NaN or infinity in the action, {states} in other numbers"
    if actions or states:
        where = tuple(e.source for e, count in bad if count or e.bad_state)[:SHOWN]
        return Finding("NaN", ERROR if actions else WARNING, actions + states, text, "--fix drop-nan", where)
    return Finding("NaN", OK, 0, text)


def noops(account: Account) -> Finding:
    """The share of steps that do nothing."""
    idle = [noop_steps(e.actions) for e in account.alike if e.length]
    share = _share(sum(int(x.sum()) for x in idle), account.steps)
    text = f"{share:.1%} of the steps do nothing (|action without gripper| < 1e-4, gripper unchanged)"
    if share > 0.05:
        return Finding("no-ops", WARNING, share, text, "--fix strip-noops: they teach the policy to stand still")
    return Finding("no-ops", OK, share, text)


def idle_runs(account: Account) -> Finding:
    """Long stretches in which nothing is done, or the same action is repeated."""
    runs = [(e, _longest_run(e)) for e in account.alike if e.length > 1]
    long = [(e, run) for e, run in runs if run >= IDLE_RUN]
    longest = max((run for _, run in runs), default=0)
    text = (
        f"{len(long)} episodes stand still, or repeat one action, for {IDLE_RUN} steps and more; the longest {longest}"
    )
    if long:
        where = tuple(f"{e.source}: {run} steps" for e, run in sorted(long, key=lambda x: -x[1]))[:SHOWN]
        return Finding(
            "idle runs", WARNING, longest, text, "--fix strip-noops, or cut the pauses while recording", where
        )
    return Finding("idle runs", OK, longest, text)


def same_frames(account: Account) -> Finding:
    """Frames that are the same as the one before: a camera that hangs or is slower than the robot."""
    pairs = sum(max(e.length - 1, 0) for e in account.episodes)
    shares = {key: _share(sum(e.still.get(key, 0) for e in account.episodes), pairs) for key in account.sizes}
    key, worst = max(shares.items(), key=lambda item: item[1], default=("no camera", 0.0))
    if key in account.dark and account.dark[key] == len(account.episodes):
        shares = {k: share for k, share in shares.items() if account.dark[k] < len(account.episodes)}
        key, worst = max(shares.items(), key=lambda item: item[1], default=("no camera", 0.0))
    text = f"{worst:.1%} of the frames of {key!r} are the same as the one before"
    if worst > 0.05:
        where = tuple(e.source for e in account.episodes if e.still.get(key, 0))[:SHOWN]
        remedy = "check that the camera is as fast as the robot; --fix strip-noops or resample=HZhz removes repeats"
        return Finding("repeated frames", WARNING, worst, text, remedy, where)
    return Finding("repeated frames", OK, worst, text)


def same_episodes(account: Account) -> Finding:
    """Episodes that occur more than once."""
    first: dict[str, str] = {}
    twice: list[str] = []
    for episode in account.episodes:
        if episode.digest in first:
            twice.append(f"{episode.source} is {first[episode.digest]}")
        first.setdefault(episode.digest, episode.source)
    text = f"{len(twice)} episodes repeat another one exactly"
    if twice:
        remedy = "remove them; between splits they make validation look better than it is"
        return Finding("duplicate episodes", WARNING, len(twice), text, remedy, tuple(twice)[:SHOWN])
    return Finding("duplicate episodes", OK, 0, text)


def ranges(account: Account) -> Iterator[Finding]:
    """Outliers, constants and values that pile up at the ends, over all dimensions but the gripper's two values."""
    actions = finite(account.actions)
    if not len(actions):
        return
    low, high = np.quantile(actions, [0.01, 0.99], axis=0)
    width = high - low
    flat = [n for n in range(actions.shape[1]) if width[n] == 0]
    moving = [n for n in range(actions.shape[1]) if width[n] > 0 and not _is_switch(actions[:, n])]
    text = f"dimensions that (nearly) never change: {', '.join(map(str, flat)) or 'none'}"
    remedy = "leave them out, or see that the robot is recorded whole; they are trained as a constant" if flat else ""
    yield Finding("constant dimensions", NOTE if flat else OK, len(flat), text, remedy)
    beyond = np.maximum(low - actions.min(axis=0), actions.max(axis=0) - high)[moving] / width[moving]
    far = float(beyond.max(initial=0.0))
    text = f"the farthest action lies {far:.1f} widths (q99 - q01) outside of q01..q99"
    remedy = "look for glitches of the teleoperation; what lies outside is clipped in training" if far > 5 else ""
    yield Finding("outliers", WARNING if far > 5 else OK, far, text, remedy)
    ends = (actions <= low) | (actions >= high)
    worst = float(ends.mean(axis=0)[moving].max(initial=0.0))
    text = f"up to {worst:.1%} of a dimension's values lie at or beyond q01 or q99 (2 % is usual)"
    remedy = "the command saturates: widen its limits, or record slower motions" if worst > 0.2 else ""
    yield Finding("saturation", WARNING if worst > 0.2 else OK, worst, text, remedy)


def gripper(account: Account) -> Finding:
    """Which way the gripper seems to open: demonstrations begin open and close on something."""
    episodes = [finite(e.actions)[:, -1] for e in account.alike if e.actions.shape[1] > 1]
    episodes = [values for values in episodes if len(values)]
    values = np.concatenate(episodes) if episodes else np.empty(0)
    if not len(values) or np.ptp(values) == 0:
        return Finding(
            "gripper", NOTE, None, "the last dimension never changes", "name the gripper if it is another one"
        )
    middle = (values.min() + values.max()) / 2
    moved = [x for x in episodes if (x > middle).any() and (x <= middle).any()]
    high_first = _share(sum(bool(x[0] > middle) for x in moved), len(moved))
    span = (
        f"{values.min():.3g} to {values.max():.3g}, {'two values' if len(np.unique(values)) == 2 else 'in between too'}"
    )
    if not moved or 0.2 < high_first < 0.8:
        text = f"the last dimension goes from {span}; which end is open cannot be told"
        return Finding("gripper", NOTE, high_first, text, "look at the frames, and say it in the data set's record")
    if high_first >= 0.8:
        return Finding("gripper", OK, high_first, f"high seems to be open ({high_first:.0%} of the episodes; {span})")
    text = f"high seems to be closed: {1 - high_first:.0%} of the episodes begin low ({span})"
    remedy = "published policies open towards 1: --fix invert-gripper, or say open_is_low in the record"
    return Finding("gripper", WARNING, high_first, text, remedy)


def rate(account: Account, control_hz: float) -> Finding:
    """The control rate, as the data or the user say and as the timestamps show."""
    steps = [np.diff(e.times) for e in account.episodes if e.times is not None and len(e.times) > 1]
    gaps: NDArray[np.float64] = np.concatenate(steps) if steps else np.empty(0)
    measured = 1 / float(np.median(gaps)) if len(gaps) and np.median(gaps) > 0 else 0.0
    if not measured and not control_hz:
        return Finding("control rate", NOTE, None, "the data do not say their control rate", "give it with --hz")
    hz = measured or control_hz
    if measured and control_hz and abs(measured / control_hz - 1) > 0.1:
        text = f"timestamps run at {measured:.3g} Hz, the description says {control_hz:g} Hz"
        return Finding("control rate", ERROR, measured, text, "correct the description, or --fix resample=HZhz")
    uneven = float(np.mean(np.abs(gaps * hz - 1) > 0.5)) if len(gaps) else 0.0
    if uneven > 0.01:
        text = f"{uneven:.1%} of the timestamps are more than half a step off {hz:.3g} Hz"
        return Finding("control rate", WARNING, uneven, text, "record at an even rate, or --fix resample=HZhz")
    if hz > FAST_HZ:
        text = f"{hz:.3g} Hz: one action a step is small at this rate, and hard to tell from standing still"
        return Finding("control rate", NOTE, hz, text, "--fix resample=5hz, or train with action chunks")
    return Finding("control rate", OK, hz, f"{hz:.3g} Hz")


def labels(account: Account) -> Finding:
    """Steps and episodes without an instruction."""
    without = [e for e in account.episodes if not e.words]
    partly = sum(e.unlabelled for e in account.episodes if e.words)
    text = f"{len(without)} episodes have no instruction; {partly} steps of the others have none"
    if without or partly:
        where = tuple(e.source for e in without)[:SHOWN]
        remedy = "--fix drop-unlabelled, or --fix label='what was to be done'; such steps are not trained on"
        return Finding("labels", ERROR if without else NOTE, len(without), text, remedy, where)
    return Finding("labels", OK, 0, text)


def language(account: Account) -> Finding:
    """How many ways of saying there are, and whether some differ in spelling only."""
    count = len(account.spoken)
    plain = Counter(" ".join(words.lower().split()).rstrip(".") for words in account.spoken)
    twins = tuple(words for words, number in plain.items() if number > 1)
    text = f"{count} instructions, {len(plain)} after case, spaces and the full stop"
    if twins:
        remedy = "write each in one way; the prompt is lower-cased in training, spaces and stops stay"
        return Finding("language", NOTE, count, text, remedy, twins[:SHOWN])
    if count == 1:
        remedy = "with one instruction the policy learns to ignore it; that is fine for one task"
        return Finding("language", NOTE, count, text, remedy)
    return Finding("language", OK if count else NOTE, count, text)


def cameras(account: Account) -> Iterator[Finding]:
    """Image sizes, and cameras that show nothing."""
    if not account.sizes:
        yield Finding("cameras", ERROR, 0, "there are no camera images", "record at least one camera")
        return
    several = {key: sizes for key, sizes in account.sizes.items() if len(sizes) > 1}
    text = "; ".join(f"{key}: {', '.join(sizes)}" for key, sizes in account.sizes.items())
    remedy = "bring all images of a camera to one size" if several else ""
    yield Finding("image sizes", WARNING if several else OK, len(several), text, remedy)
    blank = {key: count for key, count in account.dark.items() if count}
    text = "; ".join(f"{key}: {count} episodes of one colour" for key, count in blank.items()) or "no frame is blank"
    remedy = "leave the camera out, or check its cable; a blank image teaches nothing" if blank else ""
    yield Finding("blank images", WARNING if blank else OK, sum(blank.values()), text, remedy)


def findings(account: Account, control_hz: float) -> list[Finding]:
    """All of them, the gravest first."""
    one: tuple[Callable[[Account], Finding], ...] = (
        amount, dimensions, not_finite, noops, idle_runs, same_frames, same_episodes, gripper, labels, language,
    )  # fmt: skip
    found = [question(account) for question in one]
    found += [*ranges(account), *cameras(account), rate(account, control_hz)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def finite(actions: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows without NaN and infinity."""
    return actions[np.isfinite(actions).all(axis=1)]


def _is_switch(values: NDArray[np.float32]) -> bool:
    """Whether a dimension (N,) is at one of its two ends nearly always, as a gripper's command is."""
    low, high = np.quantile(values, [0.01, 0.99])
    near = (high - low) / 50
    return float(((values <= low + near) | (values >= high - near)).mean()) > 0.8


def _longest_run(episode: EpisodeAccount) -> int:
    """Steps in a row that do nothing or repeat the action before."""
    same = np.concatenate([[False], (np.diff(episode.actions, axis=0) == 0).all(axis=1)])
    idle = noop_steps(episode.actions) | same
    edges = np.flatnonzero(np.diff(np.concatenate([[0], idle.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0

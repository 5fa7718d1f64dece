"""An evaluation as one HTML page that opens anywhere: plots, numbers and videos inside, nothing fetched.

Several evaluations, such as before and after fine-tuning, stand side by side in the same plots.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from openvla.errors import InputError, UsageError
from openvla.files import write_text
from openvla.report.page import document, section
from openvla.sim.charts import SERIES, latency_chart, steps_chart, success_chart, task_names
from openvla.sim.evaluation import EpisodeResult, Evaluation, TaskResult


def write_report(
    path: str | Path, evaluations: Evaluation | Mapping[str, Evaluation], title: str, *, notes: Iterable[str] = ()
) -> Path:
    """Write the page and return its path.

    evaluations: one, or several by what the reader should call them ("before", "after").
    notes: paragraphs under the title: what was done and what to look at.

    Raises InputError without any evaluation, UsageError where the file cannot be written.
    """
    named = {evaluations.suite: evaluations} if isinstance(evaluations, Evaluation) else dict(evaluations)
    if not named:
        raise InputError("a report needs at least one evaluation; give one, or a mapping from names to evaluations")
    path = Path(path)
    write_text(path, page(named, title, notes), UsageError)
    return path


def page(named: Mapping[str, Evaluation], title: str, notes: Iterable[str]) -> str:
    """The whole document."""
    series = [evaluation.tasks for evaluation in named.values()]
    sections = [
        cards(named),
        section(
            "Success by task",
            "Share of episodes that succeed; the thin line is the 95% Wilson interval.",
            success_chart(series),
        ),
        section(
            "Steps to success",
            "Actions taken in each successful episode; the stroke is their mean.",
            steps_chart(series),
        ),
        latency(named),
        section("Numbers", "", table(named)),
        films(named),
        section("Circumstances", "", "".join(circumstances(name, run) for name, run in named.items())),
    ]
    return document(title, notes, sections)


def cards(named: Mapping[str, Evaluation]) -> str:
    """The headline of each evaluation."""
    return f'<div class="cards">{"".join(card(i, name, run) for i, (name, run) in enumerate(named.items()))}</div>'


def card(rank: int, name: str, run: Evaluation) -> str:
    """Success, interval, size and speed of one evaluation."""
    low, high = run.ci95
    lines = [
        f"95% interval {low:.0%} to {high:.0%}",
        f"{len(run.results)} episodes of {counted(len(run.tasks), 'task')}",
        f"answers in {run.latency_ms(50):.1f} ms (p99 {run.latency_ms(99):.1f} ms)",
    ]
    small = "".join(f"<small>{escape(line)}</small>" for line in lines)
    return (
        f'<div class="card"><span class="key s{rank % SERIES}">{escape(name)}</span>'
        f"<strong>{run.success_rate:.0%}</strong>{small}</div>"
    )


def latency(named: Mapping[str, Evaluation]) -> str:
    """The histogram of answer times against the time that the simulator's control rate leaves."""
    budget_ms = 1e3 / max(run.control_hz for run in named.values())
    explanation = f"Time from observation to action; the dashed line is one control period, {budget_ms:.1f} ms."
    return section("Latency", explanation, latency_chart([run.latencies_ms for run in named.values()], budget_ms))


def table(named: Mapping[str, Evaluation]) -> str:
    """Every number of the plots."""
    several = len(named) > 1
    heads = ["task", "instruction", *(["run"] if several else []), "success", "rate", "95% interval", "mean steps"]
    head = "".join(f"<th{css(name)}>{name}</th>" for name in heads)
    rows = [
        row(task, run.tasks[task], name if several else None)
        for task in task_names([run.tasks for run in named.values()])
        for name, run in named.items()
        if task in run.tasks
    ]
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def css(column: str) -> str:
    """Columns of words stand left, numbers right."""
    return ' class="words"' if column in ("instruction", "run") else ""


def row(task: str, result: TaskResult, run: str | None) -> str:
    """One task of one evaluation as a row of the table."""
    low, high = result.ci95
    mean = result.mean_steps_to_success
    words = [result.instruction, *([run] if run is not None else [])]
    numbers = [
        f"{result.successes} / {result.episodes}",
        f"{result.success_rate:.0%}",
        f"{low:.0%} to {high:.0%}",
        "none" if mean is None else f"{mean:.1f}",
    ]
    cells = [f"<td>{escape(task)}</td>"]
    cells += [f'<td class="words">{escape(word)}</td>' for word in words]
    cells += [f"<td>{number}</td>" for number in numbers]
    return f"<tr>{''.join(cells)}</tr>"


def films(named: Mapping[str, Evaluation]) -> str:
    """All videos, task by task, so that evaluations of one task are neighbours."""
    shown = [
        figure(rank, name if len(named) > 1 else None, run, episode)
        for task in task_names([run.tasks for run in named.values()])
        for rank, (name, run) in enumerate(named.items())
        if task in run.tasks
        for episode in run.tasks[task].results
    ]
    body = "".join(shown)
    return section("Videos", "", f'<div class="films">{body}</div>') if body else ""


def figure(rank: int, name: str | None, run: Evaluation, episode: EpisodeResult) -> str:
    """One episode's video inside the page, or nothing where there is none."""
    if episode.video is None or run.directory is None:
        return ""
    try:
        content = (run.directory / episode.video).read_bytes()
    except OSError:
        return ""
    outcome = f"{'succeeds' if episode.success else 'fails'} after {counted(episode.steps, 'action')}"
    key = "" if name is None else f'<span class="key s{rank % SERIES}">{escape(name)}</span><br>'
    return (
        f'<figure><video controls muted loop playsinline preload="metadata" '
        f'src="data:video/mp4;base64,{base64.b64encode(content).decode()}"></video>'
        f"<figcaption>{key}<b>{escape(run.tasks[episode.task].instruction)}</b><br>{outcome}, seed {episode.seed}"
        "</figcaption></figure>"
    )


def circumstances(name: str, run: Evaluation) -> str:
    """What a reader needs to repeat it."""
    facts = {"run": name, **run.circumstances, "duration": f"{run.duration_s:.0f} s"}
    return f"<dl>{''.join(f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in facts.items())}</dl>"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 task, 2 tasks."""
    return f"{number} {noun}{'' if number == 1 else 's'}"

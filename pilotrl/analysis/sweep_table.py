"""The table that a sweep ends with: a row for each of its jobs, what was swept, and what success became."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from pilotrl.analysis.measures import BLOCKS
from pilotrl.analysis.terminal import INTERVAL, excludes_zero, interval

LEGEND = {
    "before, after": "share of episodes that the environment itself calls solved, in percent",
    "change": "after minus before, on the same tasks",
    "interval": INTERVAL,
}


@dataclass(frozen=True)
class SweepJob:
    """A row."""

    number: int
    """From 1."""
    swept: Mapping[str, str]
    """Keys in which the jobs differ, and their values in this one."""
    folder: str
    """Inside the sweep's."""
    summary: Mapping[str, Any] | None
    """Of summary.json; None of a job that is not finished."""


def sweep_table(title: str, jobs: Sequence[SweepJob]) -> Table:
    """Success before and after each job in percent and, of a stage with a teacher, below it that under the teacher's plans."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.swept))
    teacher = any((job.summary or {}).get("eval_teacher") for job in jobs)
    headings = ["job", *keys, *(["plans"] if teacher else []), "before", "after", "change", "interval", "", "folder"]
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in (*keys, "plans", "folder") else "right", no_wrap=True)
    for job in jobs:
        about = [str(job.number), *(job.swept.get(key, "") for key in keys)]
        rows = list(_successes(job.summary or {})) or [
            ("", ["-", "-", "-", "-" if job.summary else "not finished", ""])
        ]
        for place, (whose, cells) in enumerate(rows):
            names = about if place == 0 else [""] * len(about)
            table.add_row(*names, *([whose] if teacher else []), *cells, job.folder if place == 0 else "")
    return table


def success_line(summary: Mapping[str, Any]) -> str:
    """`success 25.0 % -> 31.2 % (+6.2; -12.5 to +25.0)`, with own plans and with the teacher's; empty where none is known."""
    told = []
    for whose, (before, after, difference, bounds, _) in _successes(summary):
        told.append(f"with {whose} plans {before} % -> {after} % ({difference}; {bounds})")
    return f"success {', '.join(told)}" if told else ""


def _successes(summary: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Whose plans, and before, after, difference, interval and a star where 0 is outside of it: all in percent."""
    for key, whose in BLOCKS.items():
        if block := summary.get(key):
            before, after, paired = (block[part]["success"] for part in ("before", "after", "paired"))
            low, high = paired["low"], paired["high"]
            ends = ["-" if value is None else f"{100 * value:.1f}" for value in (before, after)]
            mean = "-" if paired["mean"] is None else f"{100 * paired['mean']:+.1f}"
            yield whose.removesuffix(" plans"), [*ends, mean, interval(low, high, 100), "*" * excludes_zero(low, high)]

"""Writes a report's HTML page, with its tables as Markdown and CSV and its plots as PNG."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pilotrl.analysis.contrasts import Contrast, corrected, gain
from pilotrl.analysis.measures import BLOCKS
from pilotrl.report import formatting
from pilotrl.report.comparisons import Sides, compared
from pilotrl.report.configurations import Configuration, Panel, plain
from pilotrl.report.factorial import factorial, main_effects
from pilotrl.report.figures import pictures
from pilotrl.report.findings import finding
from pilotrl.report.runs import DECODINGS, Cell, Run, block
from pilotrl.store.text import markdown, spreadsheet
from pilotrl.types import Task

PAGE = "report.html"
NAME_SIZE = 100
"""Characters of an evaluation set's name in names of files."""


@dataclass(frozen=True)
class Gain:
    """What a configuration gained in one number of an evaluation set."""

    configuration: Configuration
    contrast: Contrast


@dataclass(frozen=True)
class AtLevel:
    """What a configuration gained in the tasks of one level."""

    level: str
    configuration: Configuration
    tasks: int
    before: float
    after: float
    contrast: Contrast


class View:
    """An evaluation set as its part of the page shows it."""

    def __init__(self, panel: Panel, baseline: Configuration | None = None, planned: Sequence[Sides] = ()) -> None:
        self.panel, self.baseline, self.planned = panel, baseline, planned
        self.all = list(compared(panel, baseline, planned))
        self.all_effects = [] if planned else list(main_effects(panel, baseline))
        shown = [found for found in self.all if found.cell in panel.headlines]
        effects = [found for found in self.all_effects if found.cell in panel.headlines]
        self.comparisons = _by_cell((found.cell, found) for found in shown)
        self.effects = _by_cell((found.cell, found) for found in effects)
        self.without_effects = None if planned else factorial(panel.configurations)[1]
        self.finding = finding(panel, shown, effects, baseline, bool(planned))
        self.gains = _by_cell(self._gains())
        self.levels = _by_cell(self._levels())
        self.pictures = pictures(panel, shown, effects)
        self.revisions = dict.fromkeys((run.summary["git_revision"] or "unknown")[:8] for run in panel.runs)

    def _gains(self) -> Iterator[tuple[Cell, Gain]]:
        for cell in self.panel.headlines:
            measured = [one for one in self.panel.configurations if one.mean("after", cell) is not None]
            found = corrected([one.gain(cell) for one in measured])
            yield from ((cell, Gain(one, contrast)) for one, contrast in zip(measured, found, strict=True))

    def _levels(self) -> Iterator[tuple[Cell, AtLevel]]:
        """Success, where the tasks have more than one level."""
        known = sorted({level for run in self.panel.runs for level in run.levels.values()})
        for cell in self.panel.headlines if len(known) > 1 else ():
            asked = [(level, one) for level in known for one in self.panel.configurations if cell.measure == "success"]
            for level, one in asked:
                before, after = (
                    [_at(level, run, getattr(run, when).get(cell, {})) for run in one.runs]
                    for when in ("before", "after")
                )
                if all(before) and all(after):
                    old, new = (fmean(fmean(values.values()) for values in side) for side in (before, after))
                    yield cell, AtLevel(level, one, len(after[0]), old, new, gain(before, after))


def _at(level: str, run: Run, values: Mapping[Task, float]) -> dict[Task, float]:
    return {task: value for task, value in values.items() if run.levels.get(task.id) == level}


def findings(views: Sequence[View]) -> list[str]:
    """What was found, a line or two for each evaluation set: nothing is compared across two of them."""
    if not views:
        return ["No finished run could be read: there is nothing to report."]
    several = len(views) > 1
    heads = [f"Evaluation set {view.panel.name} ({view.panel.sha256[:8]}): " * several for view in views]
    return [f"{head}{line}" for head, view in zip(heads, views, strict=True) for line in view.finding]


def files(name: str, folders: Sequence[str], views: Sequence[View], notes: Sequence[str]) -> dict[str, bytes]:
    """Everything that is written, by file name: the page with its pictures inside, the pictures beside it, the numbers
    of every summary, every comparison and every main effect as CSV, and the tables in Markdown, to be quoted."""
    panels = [view.panel for view in views]
    total = sum(len(panel.runs) for panel in panels)
    said: dict[str, Any] = {"name": name, "folders": folders, "total": total, "notes": notes, "views": views}
    said["findings"] = findings(views)
    written = {
        PAGE: _render("page.html", said),
        "tables.md": _render("tables.md", said),
        "runs.csv": _csv(RUNS, _runs(panels)),
        "comparisons.csv": _csv(COMPARISONS, _comparisons(views)),
    }
    if any(view.all_effects for view in views):
        written["main_effects.csv"] = _csv(EFFECTS, _effects(views))
    return written | pictures_of(views)


def pictures_of(views: Sequence[View]) -> dict[str, bytes]:
    """By file name. What a folder calls an evaluation set is no path."""
    written: dict[str, bytes] = {}
    for number, view in enumerate(views, start=1):
        name = re.sub(r"[^\w.-]", "-", view.panel.name)[:NAME_SIZE]
        before = f"{number}-{name}-" if len(views) > 1 else ""
        written |= {f"{before}{which}.png": png for which, png in view.pictures.items()}
    return written


def _render(template: str, said: Mapping[str, Any]) -> bytes:
    html = template.endswith(".html")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = lambda text: markdown(str(text))
    environment.filters["b64encode"] = lambda data: base64.b64encode(data).decode()
    known: dict[str, Any] = {
        key: getattr(formatting, key) for key in ("title", "number", "change", "size", "interval", "count", "p_value")
    }
    own = Cell("eval", "sampled", "success")
    environment.globals |= known | {"plain": plain}
    return environment.get_template(template).render(**said, own_success=own).encode(errors="replace")


MEASURED: tuple[str, ...] = ("evaluation_set", "plans", "decoding", "measure")
CHANGE = ("difference", "ci_low", "ci_high")
RUNS = ("run", "configuration", "seed", "stage", "env", "agent", "algorithm", *MEASURED, "before", "after", *CHANGE)
CONTRAST = (
    "tasks",
    "difference",
    "ci_low_over_tasks",
    "ci_high_over_tasks",
    "ci_low_over_tasks_and_seeds",
    "ci_high_over_tasks_and_seeds",
    "minimal_detectable_difference",
    "p",
    "p_holm",
    "family",
    "verdict",
)
COMPARISONS = (*MEASURED, "configuration_a", "configuration_b", "after_a", "after_b", *CONTRAST)
EFFECTS = (*MEASURED, "key", "value_a", "value_b", *CONTRAST)


def _runs(panels: Iterable[Panel]) -> Iterator[dict[str, Any]]:
    """What the summaries say, to the last digit."""
    for panel in panels:
        for configuration in panel.configurations:
            for run in configuration.runs:
                about = {key: run.summary[key] for key in ("seed", "stage", "env", "agent", "algorithm")}
                about |= {"run": run.name, "configuration": configuration.name}
                about["evaluation_set"] = run.summary["panel"]["sha256"]
                for of, plans in BLOCKS.items():
                    for decoding in DECODINGS:
                        yield from _measures(
                            about | {"plans": plans, "decoding": decoding}, block(run.summary, of, decoding)
                        )


def _measures(about: Mapping[str, Any], held: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    for measure, after in (held or {"after": {}})["after"].items():
        assert held is not None
        change = dict(zip(CHANGE, held["paired"][measure].values(), strict=True))
        yield {**about, "measure": measure, "before": held["before"][measure], "after": after, **change}


def _comparisons(views: Iterable[View]) -> Iterator[dict[str, Any]]:
    for view in views:
        for found in view.all:
            yield {
                **_measured(view, found.cell),
                "configuration_a": "; ".join(one.name for one in found.first),
                "configuration_b": "; ".join(one.name for one in found.second),
                "after_a": _mean_of(found.first, found.cell),
                "after_b": _mean_of(found.second, found.cell),
                **_contrast(found.contrast),
                "verdict": found.verdict,
            }


def _mean_of(configurations: Sequence[Configuration], cell: Cell) -> float:
    """Each weighs the same; all of them measured it."""
    return fmean(mean for one in configurations if (mean := one.mean("after", cell)) is not None)


def _effects(views: Iterable[View]) -> Iterator[dict[str, Any]]:
    for view in views:
        for found in view.all_effects:
            values = {"key": found.factor.key, "value_a": found.first, "value_b": found.second}
            yield {**_measured(view, found.cell), **values, **_contrast(found.contrast), "verdict": found.verdict}


def _measured(view: View, cell: Cell) -> dict[str, Any]:
    told = (view.panel.name, BLOCKS[cell.block], cell.decoding, cell.measure)
    return dict(zip(MEASURED, told, strict=True))


def _contrast(found: Contrast) -> dict[str, Any]:
    tasks, seeds = found.over_tasks, found.over_seeds or {"low": None, "high": None}
    ends = (tasks["low"], tasks["high"], seeds["low"], seeds["high"])
    tested = (found.detectable, found.p, found.p_holm, found.family)
    return dict(zip(CONTRAST, (found.tasks, tasks["mean"], *ends, *tested), strict=False))


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    held = io.StringIO()
    writer = csv.DictWriter(held, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: spreadsheet(value) for name, value in row.items()} for row in rows)
    return held.getvalue().encode(errors="replace")


def _by_cell(pairs: Iterable[tuple[Cell, Any]]) -> dict[Cell, list[Any]]:
    found: dict[Cell, list[Any]] = {}
    for cell, value in pairs:
        found.setdefault(cell, []).append(value)
    return found

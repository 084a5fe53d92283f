"""The page, the tables and the pictures of a report: what is written, and under which name."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pilotrl.analysis.measures import BLOCKS
from pilotrl.analysis.statistics import Contrast
from pilotrl.report import formatting
from pilotrl.report.configurations import Configuration, Panel, clear, plain
from pilotrl.report.figures import pictures
from pilotrl.report.runs import DECODINGS, Cell, block

PAGE = "report.html"


@dataclass(frozen=True)
class Gain:
    """What a configuration gained in one number of a panel."""

    configuration: Configuration
    contrast: Contrast

    @property
    def clear(self) -> bool:
        """Every interval there is excludes 0."""
        return clear(self.contrast.over_tasks) and (self.contrast.over_seeds is None or clear(self.contrast.over_seeds))


class View:
    """A panel as its part of the page shows it."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.all = list(panel.compared())
        shown = [found for found in self.all if found.cell in panel.headlines]
        self.comparisons = _by_cell((found.cell, found) for found in shown)
        self.intervals = len(shown)
        self.gains = _by_cell(self._gains())
        self.pictures = pictures(panel, shown)
        self.revisions = dict.fromkeys((run.summary["git_revision"] or "unknown")[:8] for run in panel.runs)

    def _gains(self) -> Iterator[tuple[Cell, Gain]]:
        for cell in self.panel.headlines:
            for configuration in self.panel.configurations:
                if configuration.mean("after", cell) is not None:
                    yield cell, Gain(configuration, configuration.gain(cell))


def files(name: str, folders: Sequence[str], panels: Sequence[Panel], notes: Sequence[str]) -> dict[str, bytes]:
    """Everything that is written, by file name: the page with its pictures inside, the pictures beside it, the numbers
    of every summary and every comparison as CSV, and the tables in Markdown, to be quoted."""
    views = [View(panel) for panel in panels]
    total = sum(len(panel.runs) for panel in panels)
    said: dict[str, Any] = {"name": name, "folders": folders, "total": total, "notes": notes, "views": views}
    written = {
        PAGE: _render("page.html", said),
        "tables.md": _render("tables.md", said),
        "runs.csv": _csv(RUNS, _runs(panels)),
        "comparisons.csv": _csv(COMPARISONS, _comparisons(views)),
    }
    for number, view in enumerate(views, start=1):
        before = f"{number}-{view.panel.name}-" if len(views) > 1 else ""
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
    environment.filters["b64encode"] = lambda data: base64.b64encode(data).decode()
    known = {key: getattr(formatting, key) for key in ("title", "number", "change", "size", "interval", "count")}
    own = Cell("eval", "sampled", "success")
    return environment.get_template(template).render(**said, **known, plain=plain, own_success=own).encode()


ENDS = ("mean", "low", "high")
RUNS: tuple[str, ...] = (
    "run",
    "configuration",
    "seed",
    "stage",
    "env",
    "agent",
    "algorithm",
    "panel",
    "plans",
    "decoding",
    "measure",
)
RUNS += ("before", "after", *ENDS)
COMPARISONS: tuple[str, ...] = (
    "panel",
    "plans",
    "decoding",
    "measure",
    "first",
    "second",
    "first_after",
    "second_after",
    "tasks",
)
COMPARISONS += (*ENDS, "low_over_seeds", "high_over_seeds", "detectable", "verdict")


def _runs(panels: Iterable[Panel]) -> Iterator[dict[str, Any]]:
    """What the summaries say, to the last digit."""
    for panel in panels:
        for configuration in panel.configurations:
            for run in configuration.runs:
                about = {key: run.summary[key] for key in ("seed", "stage", "env", "agent", "algorithm")}
                about |= {"run": run.name, "configuration": configuration.name, "panel": run.summary["panel"]["sha256"]}
                for of, plans in BLOCKS.items():
                    for decoding in DECODINGS:
                        yield from _measures(
                            about | {"plans": plans, "decoding": decoding}, block(run.summary, of, decoding)
                        )


def _measures(about: Mapping[str, Any], held: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    for measure, after in (held or {"after": {}})["after"].items():
        assert held is not None
        paired = held["paired"][measure]
        yield {**about, "measure": measure, "before": held["before"][measure], "after": after, **paired}


def _comparisons(views: Iterable[View]) -> Iterator[dict[str, Any]]:
    for view in views:
        for found in view.all:
            cell, contrast = found.cell, found.contrast
            seeds = contrast.over_seeds or dict.fromkeys(ENDS)
            yield {
                "panel": view.panel.name,
                "plans": BLOCKS[cell.block],
                "decoding": cell.decoding,
                "measure": cell.measure,
                "first": found.first.name,
                "second": found.second.name,
                "first_after": found.first.mean("after", cell),
                "second_after": found.second.mean("after", cell),
                "tasks": contrast.tasks,
                **contrast.over_tasks,
                "low_over_seeds": seeds["low"],
                "high_over_seeds": seeds["high"],
                "detectable": contrast.detectable,
                "verdict": found.verdict,
            }


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    held = io.StringIO()
    writer = csv.DictWriter(held, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return held.getvalue().encode()


def _by_cell(pairs: Iterable[tuple[Cell, Any]]) -> dict[Cell, list[Any]]:
    found: dict[Cell, list[Any]] = {}
    for cell, value in pairs:
        found.setdefault(cell, []).append(value)
    return found

"""What MLflow says of a run besides curves and traces: a description in words, and what the panels measured."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pilotrl.analysis.measures import BLOCKS, RATES
from pilotrl.store.text import code, markdown

PANELS = {"eval": "panel", "eval_teacher": "panel_teacher"}
"""Blocks of summary.json, and what their numbers begin with in MLflow."""

ODD = r"[^\w .:/-]"
"""What MLflow takes in no name of a metric."""

Summary = Mapping[str, Any]
Point = tuple[str, float, int]
"""A metric's name, value and step."""


def panel_points(summary: Summary) -> Iterator[Point]:
    """Each number of the panels twice: at step 0, before training, and at the last step, after it."""
    for block, prefix in PANELS.items():
        if measured := summary.get(block):
            for when, step in (("before", 0), ("after", summary["train"]["steps"])):
                named = {f"{prefix}/{name}": value for name, value in measured[when].items()}
                for env, of in (measured.get("by_env", {}) | measured.get("averages", {})).items():
                    named[f"{prefix}/{env}/success"] = of[when]["success"]
                for level, of in measured.get("by_level", {}).items():
                    named[f"{prefix}/level/{re.sub(ODD, '_', level)}/success"] = of[when]["success"]
                if greedy := measured.get("greedy"):
                    named[f"{prefix}/success_greedy"] = greedy[when]["success"]
                yield from ((name, float(value), step) for name, value in named.items() if value is not None)


def description(tags: Mapping[str, str], summary: Summary) -> str:
    """Markdown for the page of a run: where it came from, where it lies and, once it is over, what it gained."""
    start = (
        f"A sweep of {tags['jobs']} jobs."
        if "jobs" in tags
        else f"Started from the weights of {code(str(tags.get('starts_from')))}."
    )
    lines = [start, "", f"Folder: {code(str(tags.get('folder')))}"]
    for block, whose in BLOCKS.items():
        if measured := summary.get(block):
            head = (
                f"| {whose}, panel {markdown(summary['panel']['name'])} | before | after | difference | 95 % interval |"
            )
            lines += ["", head, "|---|---|---|---|---|", *_rows(measured, "")]
    return "\n".join(lines)


def _rows(measured: Mapping[str, Any], note: str) -> Iterator[str]:
    for name, after in measured["after"].items():
        if after is None or (note and name != "success"):
            continue
        cells = [shown(name, measured["before"][name]), shown(name, after)]
        paired = measured["paired"][name]
        mean, low, high = (shown(name, paired[key], "+") for key in ("mean", "low", "high"))
        interval = "-" if paired["low"] is None else f"{low} to {high}"
        yield f"| {name.replace('_', ' ')}{note} | {' | '.join(cells)} | {mean} | {interval} |"
        if name == "success" and measured.get("greedy"):
            yield from _rows(measured["greedy"], ", greedy")


def shown(name: str, value: float | None, sign: str = "") -> str:
    """The value of a measure as a person reads it, in percent where it is a rate; `sign="+"` for differences."""
    if value is None:
        return "-"
    return f"{100 * value:{sign}.1f} %" if name in RATES else f"{value:{sign}.1f}"

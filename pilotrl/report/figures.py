"""The pictures of a report, as PNGs; none is drawn that would be empty.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; lines of configurations differ in their dashes too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from textwrap import fill
from typing import TYPE_CHECKING

from pilotrl.analysis.contrasts import Contrast
from pilotrl.analysis.learning_curve import smooth
from pilotrl.analysis.measures import LOSS, plays
from pilotrl.report.comparisons import Comparison
from pilotrl.report.configurations import Configuration, Panel
from pilotrl.report.factorial import Effect
from pilotrl.report.forest import ROW, WIDTH, forest
from pilotrl.report.runs import Cell, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
FAILED, ALIKE, MISSING = COLOURS[1], COLOURS[5], "0.75"
SUCCESS = "env/success"
REWARDS = {SUCCESS: "success [%]", "reward/total": "reward [at most 1]"}
"""Metrics of training that are drawn, and what their axes are called ..."""
TERM = "reward/"
"""... then every reward term there is ..."""
CURVES = {
    "env/turns": "turns an episode",
    "train/entropy": "entropy [nats a token]",
    "train/grad_norm": "gradient norm",
    "drift/planner": "drift (KL): planner [nats a token]",
    "drift/executor": "drift (KL): executor [nats a token]",
}
"""... and these."""
FEW = 8
"""Steps of which each is a dot too: of one step there is no line."""
Points = list[tuple[float, float]]


def pictures(panel: Panel, comparisons: Sequence[Comparison], effects: Sequence[Effect]) -> dict[str, bytes]:
    """PNGs by name; those that have nothing to show are left out."""
    names = [configuration.name for configuration in panel.configurations]
    drawn = {
        "differences": forest(_rows(comparisons), names),
        "effects": forest(_rows(effects)),
        "learning": learning(panel),
        "groups": groups(panel),
    }
    return {name: _png(figure) for name, figure in drawn.items() if figure is not None}


def _rows(found: Sequence[Comparison] | Sequence[Effect]) -> dict[Cell, dict[str, Contrast]]:
    rows: dict[Cell, dict[str, Contrast]] = {}
    for one in found:
        rows.setdefault(one.cell, {})[one.pair] = one.contrast
    return rows


def learning(panel: Panel) -> Figure | None:
    """Metrics of training by configuration: the mean over seeds, and from the lowest seed to the highest."""
    names = _curves(panel)
    if not names:
        return None
    steps = [line["step"] for run in panel.runs for line in run.metrics]
    beside = max(0.5, 0.04 * (max(steps) - min(steps)))
    figure, places = _grid(len(names), height=2.5)
    for place, (metric, name) in zip(places, names.items(), strict=False):
        for configuration, (dash, colour) in zip(panel.configurations, styles(), strict=False):
            _band(place, [_smoothed(run, metric) for run in configuration.runs], configuration.name, colour, dash)
            _handovers(place, configuration, colour, named=len(panel.chains) == 1)
        _style(place, name, "training step")
        place.set_xlim(min(steps) - beside, max(steps) + beside)  # one axis for all, those of few steps too
        if place.dataLim.height == 0:
            place.set_ylim(place.dataLim.y0 - 1, place.dataLim.y0 + 1)
    lines = {line.get_label(): line for place in places for line in place.get_lines()}
    known = [configuration.name for configuration in panel.configurations if configuration.name in lines]
    handles = [lines[name] for name in known]
    figure.legend(handles, known, loc="outside lower left", frameon=False, fontsize=9, handlelength=3.5)
    return figure


def groups(panel: Panel) -> Figure | None:
    """Share of groups that taught nothing, by configuration: never solved, or alike in another way. Where there were none, there
    is nothing to draw."""
    configurations = [
        configuration
        for configuration in panel.configurations
        if any(share > 0 for _, share in _over_runs(configuration, "train/frac_reward_zero_std"))
    ]
    if not configurations:
        return None
    figure, places = _grid(len(configurations), height=2.5)
    for place, configuration in zip(places, configurations, strict=False):
        kinds = ("frac_reward_zero_std", "frac_groups_unsolved", "frac_groups_unscored")
        dead, failed, missing = (dict(_over_runs(configuration, f"train/{kind}")) for kind in kinds)
        steps = [step for step in dead if step in failed]
        low, high = [100 * failed[step] for step in steps], [100 * dead[step] for step in steps]
        middle = [100 * (dead[step] - missing.get(step, 0.0)) for step in steps]
        if len(steps) == 1:  # an area needs two ends
            steps, low, middle, high = [steps[0] - 0.5, steps[0] + 0.5], 2 * low, 2 * middle, 2 * high
        place.fill_between(steps, 0, low, color=FAILED, label="all failed", linewidth=0)
        place.fill_between(steps, low, middle, color=ALIKE, label="all alike otherwise", linewidth=0)
        if middle != high:
            place.fill_between(steps, middle, high, color=MISSING, label="fewer than two rewards", linewidth=0)
        place.set_ylim(0, 100)
        place.set_ylabel("groups [%]", fontsize=9)
        _handovers(place, configuration, "black", named=True)
        _style(place, fill(configuration.name, 32), "training step")
    drawn = {name: handle for place in places for handle, name in zip(*place.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def styles() -> Iterator[tuple[str, str]]:
    """Dash and colour of each configuration: neighbours differ in both."""
    dashes, colours = cycle(DASHES), cycle(COLOURS)
    return zip(dashes, colours, strict=False)


def _curves(panel: Panel) -> dict[str, str]:
    """Metrics that some run has, and titles. A loss is only drawn where demonstrations are learned from."""
    known = dict.fromkeys(key for run in panel.runs for line in run.metrics for key in line if line[key] is not None)
    terms = {key: f"reward term: {key.removeprefix(TERM)} [0 to 1]" for key in known if key.startswith(TERM)}
    losses = {} if any(plays(run.metrics) for run in panel.runs) else LOSS
    named = {**REWARDS, **(terms | REWARDS), **CURVES, **losses}
    return {key: name for key, name in named.items() if any(_shared(one, key) for one in panel.configurations)}


def _smoothed(run: Run, key: str) -> Points:
    """A metric by step; of a chain each stage by itself, with a gap before the next."""
    points = [(line["step"], line[key]) for line in run.metrics if line.get(key) is not None]
    begins = [begin for _, begin in run.stages] or [1]
    scale = 100 if key == SUCCESS else 1
    found: Points = []
    for begin, end in pairwise([*begins, float("inf")]):
        part = [(step, value) for step, value in points if begin <= step < end]
        found += [(begin - 0.5, math.nan)] if found and part else []
        found += [(step, scale * mean) for (step, _), mean in zip(part, smooth([v for _, v in part]), strict=True)]
    return found


def _handovers(place: Axes, configuration: Configuration, colour: str, named: bool) -> None:
    """A dotted line where a stage of a chain takes over the weights, with its name if there is room for names."""
    for name, begin in configuration.runs[0].stages:
        if begin > 1:
            place.axvline(begin - 0.5, color=colour, linewidth=1.2, linestyle=":")
        if named:
            place.text(begin - 0.5, 1.02, name, fontsize=7, color=colour, transform=place.get_xaxis_transform())


def _over_runs(configuration: Configuration, key: str) -> Points:
    """Mean over the runs of a configuration, at the steps that all of them have."""
    runs = [dict(_smoothed(run, key)) for run in configuration.runs]
    return [(step, sum(run[step] for run in runs) / len(runs)) for step in runs[0] if all(step in run for run in runs)]


def _shared(configuration: Configuration, key: str) -> list[float]:
    """Steps at which a configuration has a point of a curve: those of all of its runs that have any."""
    return _steps([dict(points) for run in configuration.runs if (points := _smoothed(run, key))])


def _steps(runs: Sequence[dict[float, float]]) -> list[float]:
    return [step for step in (runs[0] if runs else ()) if all(step in run for run in runs)]


def _band(place: Axes, runs: Sequence[Points], name: str, colour: str, dash: str) -> None:
    known = [dict(points) for points in runs if points]
    steps = _steps(known)
    if not steps:
        return
    columns = [[run[step] for run in known] for step in steps]
    dot = "o" if len(steps) < FEW else ""
    means = [sum(c) / len(c) for c in columns]
    place.plot(steps, means, dash, color=colour, linewidth=1.8, label=name, marker=dot, markersize=3)
    if len(known) > 1:
        lows, highs = [min(c) for c in columns], [max(c) for c in columns]
        place.fill_between(steps, lows, highs, color=colour, alpha=0.18, linewidth=0)


def _grid(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width with `count` axes, three in a row."""
    from matplotlib.figure import Figure  # a second to import; without pyplot there is no state and no window

    rows = -(-count // ROW)
    figure = Figure(figsize=(WIDTH, rows * height + 0.5), layout="constrained")
    grid = figure.add_gridspec(rows, ROW)
    return figure, [figure.add_subplot(grid[divmod(place, ROW)]) for place in range(count)]


def _style(place: Axes, name: str, below: str) -> None:
    place.set_title(name, fontsize=10, loc="left", pad=14 if place.texts else None)  # above the names of stages
    place.set_xlabel(below, fontsize=9)
    place.locator_params(axis="x", integer=True)
    place.tick_params(labelsize=9)
    place.grid(alpha=0.25)
    place.spines[["top", "right"]].set_visible(False)
    place.margins(x=0.04)


def _png(figure: Figure) -> bytes:
    held = io.BytesIO()
    figure.savefig(held, dpi=150, format="png", metadata={"Software": None})
    return held.getvalue()

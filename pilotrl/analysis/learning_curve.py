"""The learning curve of a run, as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotrl.analysis.measures import LIVE, LOSS, plays

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT = "#1f4e79", "#9db8d2"
CURVES = {"train/entropy": "entropy [nats a token]", "train/grad_norm": "gradient norm"}
"""Drawn in every learning curve ..."""
PLAYED = LIVE | CURVES | {"env/turns": "turns an episode"}
"""... and where a run learns from its own episodes."""


def learning_curve(metrics: Path, picture: Path) -> None:
    """Draw metrics.jsonl as a PNG: each step as a point, and their moving mean.

    What no step has is not drawn; without any step no picture is written.
    """
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    curves = PLAYED if plays(lines) else LOSS | CURVES
    drawn = {title: points for key, title in curves.items() if (points := _series(lines, key))}
    if not drawn:
        return
    from matplotlib.figure import Figure  # a second to import; without pyplot there is no state and no window

    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows), layout="constrained")
    for place, (title, points) in enumerate(drawn.items(), start=1):
        _draw(figure.add_subplot(rows, columns, place), title, points)
    figure.savefig(picture, dpi=150)


def _series(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def _draw(axes: Axes, title: str, points: Sequence[tuple[int, float]]) -> None:
    from matplotlib.ticker import MaxNLocator

    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, ".", color=FAINT, markersize=4)
    axes.plot(steps, smooth(values), color=INK, linewidth=1.8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)


def smooth(values: Sequence[float]) -> list[float]:
    """Moving mean over a tenth of the values around each, 50 at most; at the ends over what there is of them."""
    half, sums = max(1, min(25, len(values) // 20)), [0.0, *accumulate(values)]
    windows = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[last] - sums[first]) / (last - first) for first, last in windows]

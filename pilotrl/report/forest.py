"""Forest plots: differences and their intervals, a row each, in a field for each measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from pilotrl.analysis.contrasts import Contrast
from pilotrl.analysis.measures import RATES
from pilotrl.report.formatting import title
from pilotrl.report.runs import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Mapping[str, Contrast]
"""A difference for each row, and what the row is called."""
COLOUR = "#0072B2"
WIDTH = 10.0
"""Inches, and on the page all there is ..."""
ROW = 3
"""... for so many fields side by side."""
NAMED = 12
"""So many configurations have room for their labels below the plot."""


def forest(fields: Mapping[Cell, Rows], names: Sequence[str] = ()) -> Figure | None:
    """The mean, the interval over tasks (thick), over tasks and seeds (thin). None where there is nothing to draw.

    names: what the letters in the names of rows stand for. Fields with the same rows stand side by side, and others below, so
    that no field has empty rows.
    """
    lines = list(_lines({cell: rows for cell, rows in fields.items() if rows}))
    if not lines:
        return None
    from matplotlib.figure import Figure  # a second to import; without pyplot there is no state and no window
    from matplotlib.lines import Line2D

    names = names if len(names) <= NAMED else ()
    heights = [1.0 + 0.3 * len(line[0][1]) for line in lines]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.19 * len(names) + 0.2), layout="constrained")
    grid = figure.add_gridspec(len(lines), 1, height_ratios=heights)
    for place, line in enumerate(lines):
        columns = grid[place].subgridspec(1, len(line))
        for column, (cell, rows) in enumerate(line):
            _field(figure.add_subplot(columns[column]), cell, rows, named=column == 0)
    if names:
        handles = [Line2D([], [], linestyle="none") for _ in names]
        figure.legend(handles, names, loc="outside lower left", frameon=False, fontsize=9, handlelength=0)
    return figure


def _lines(fields: Mapping[Cell, Rows]) -> Iterator[list[tuple[Cell, Rows]]]:
    """Fields of the same rows, at most `ROW` in a line, and lines of about the same length."""
    for _, group in groupby(fields.items(), key=lambda field: (field[0].block, tuple(field[1]))):
        alike = list(group)
        length = -(-len(alike) // -(-len(alike) // ROW))
        yield from (alike[start : start + length] for start in range(0, len(alike), length))


def _field(place: Axes, cell: Cell, rows: Rows, named: bool) -> None:
    scale = 100.0 if cell.measure in RATES else 1.0
    for row, found in enumerate(rows.values()):
        _interval(place, row, found, scale)
    place.axvline(0, color="black", linewidth=0.8)
    place.plot([-1, 1], [0, 0], alpha=0)  # a point to each side is always in view
    place.set_yticks(range(len(rows)), [*rows] if named else [""] * len(rows))
    place.set_ylim(len(rows) - 0.5, -0.5)
    place.set_title(title(cell), fontsize=10, loc="left")
    place.set_xlabel("difference [percentage points]" if cell.measure in RATES else "difference", fontsize=9)
    place.tick_params(labelsize=9)
    place.grid(alpha=0.25)
    place.spines[["top", "right"]].set_visible(False)
    place.margins(x=0.04)


def _interval(place: Axes, row: int, found: Contrast, scale: float) -> None:
    inner, outer = found.over_tasks, found.over_seeds
    for interval, width, ends in ((outer, 1.4, "|"), (inner, 5.0, "")):
        if interval is not None and interval["low"] is not None and interval["high"] is not None:
            reach = [scale * interval["low"], scale * interval["high"]]
            place.plot(reach, [row, row], marker=ends, color=COLOUR, linewidth=width, solid_capstyle="butt")
    place.plot(scale * (inner["mean"] or 0.0), row, "o", color="white", markeredgecolor="black", markersize=5)

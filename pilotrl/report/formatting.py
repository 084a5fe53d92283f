"""How a report writes numbers and what it calls them."""

from __future__ import annotations

from collections.abc import Mapping

from pilotrl.analysis.measures import BLOCKS, RATES
from pilotrl.report.runs import Cell


def title(cell: Cell) -> str:
    """own plans: success, greedy"""
    return f"{BLOCKS[cell.block]}: {cell.measure.replace('_', ' ')}{', greedy' if cell.decoding == 'greedy' else ''}"


def number(value: float | None, cell: Cell) -> str:
    """38.5 % of a rate, 5.1 of a count."""
    return "-" if value is None else f"{100 * value:.1f} %" if cell.measure in RATES else f"{value:.1f}"


def change(value: float | None, cell: Cell) -> str:
    """+3.9: percentage points of a rate."""
    return "-" if value is None else f"{_scale(cell) * value:+.1f}".replace("-", "−")


def size(value: float | None, cell: Cell) -> str:
    """3.9, of a difference whose sign does not matter."""
    return "-" if value is None else f"{_scale(cell) * value:.1f}"


def interval(held: Mapping[str, float | None] | None, cell: Cell) -> str:
    """−1.0 to +8.8; a dash where it is not defined."""
    if held is None or held["low"] is None:
        return "-"
    return f"{change(held['low'], cell)} to {change(held['high'], cell)}"


def p_value(value: float | None) -> str:
    """0.021; a dash for too few tasks."""
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float) -> str:
    """12,345"""
    return f"{value:,.0f}"


def _scale(cell: Cell) -> float:
    return 100.0 if cell.measure in RATES else 1.0

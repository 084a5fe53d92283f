"""What is compared: every two configurations, or each with a baseline; and who is ahead."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pilotrl.analysis.statistics import Contrast, Interval, difference
from pilotrl.report.configurations import GRADED, Configuration, Panel, plain
from pilotrl.report.runs import Cell
from pilotrl.types import UserError

APART = "cannot be told apart"
KNOWN = 12
"""Configurations that a message about an unknown baseline lists."""


@dataclass(frozen=True)
class Comparison:
    """One number of an evaluation set, first configuration minus second."""

    cell: Cell
    first: Configuration
    second: Configuration
    contrast: Contrast

    @property
    def pair(self) -> str:
        return f"{self.first.mark} − {self.second.mark}"

    @property
    def verdict(self) -> str:
        """Who is ahead, if that can be said."""
        return verdict(self.contrast, self.first.mark, self.second.mark)


def compared(panel: Panel, baseline: Configuration | None = None) -> Iterator[Comparison]:
    """Every two configurations, or each of the others minus the baseline, on everything that all of their runs measured."""
    pairs = [*combinations(panel.configurations, 2)]
    if baseline is not None:
        pairs = [(other, baseline) for other in panel.configurations if other is not baseline]
    for cell in panel.cells:
        for first, second in pairs:
            if comparable_on(cell, (first, second)):
                values = [[run.after[cell] for run in configuration.runs] for configuration in (first, second)]
                yield Comparison(cell, first, second, difference(*values))


def comparable_on(cell: Cell, configurations: Sequence[Configuration]) -> bool:
    """Whether every run measured it, and one judge graded all of them where it is a judge's measure."""
    if cell.measure in GRADED and any(one.judge != configurations[0].judge for one in configurations):
        return False  # two yardsticks
    return all(run.after.get(cell) for configuration in configurations for run in configuration.runs)


def verdict(found: Contrast, first: str, second: str) -> str:
    """Which of the two is higher, if every interval there is excludes 0."""
    if found.over_tasks["low"] is None:
        return "too few tasks"
    if not told_apart(found):
        return APART
    ahead = first if (found.over_tasks["mean"] or 0) > 0 else second
    return f"{ahead} higher" + ("" if found.over_seeds else " in these runs (one seed)")


def told_apart(found: Contrast) -> bool:
    """Every interval there is excludes 0."""
    return clear(found.over_tasks) and (found.over_seeds is None or clear(found.over_seeds))


def clear(interval: Interval) -> bool:
    """Whether it excludes 0."""
    low, high = interval["low"], interval["high"]
    return low is not None and high is not None and not low <= 0 <= high


def baselines(panels: Sequence[Panel], label: str) -> tuple[list[Configuration | None], list[str]]:
    """The configuration of each evaluation set that `label` picks, or None where it has no such; and a note on each of those.

    label: a mark (`A`), or words `key=value` with commas between them, as in a configuration's label. Keys may be written
    as there, or whole. Raises UserError where nothing is picked anywhere, or several of one evaluation set.
    """
    words = _words(label.partition(": ")[2] or label)
    picked = [_picked(panel, label, words) for panel in panels]
    if not any(picked):
        known = [one.name for panel in panels for one in panel.configurations]
        listed = "; ".join(known[:KNOWN]) + (f"; and {len(known) - KNOWN} more" if len(known) > KNOWN else "")
        raise UserError(f"baseline={label}: there is no such configuration; there are {listed or 'none at all'}")
    notes = [
        f"evaluation set {panel.name}: no configuration is {label}, so every two are compared"
        for panel, found in zip(panels, picked, strict=True)
        if not found
    ]
    return [found[0] if found else None for found in picked], notes


def _picked(panel: Panel, label: str, words: Sequence[str]) -> list[Configuration]:
    found = [one for one in panel.configurations if label in (one.mark, one.name, one.label)]
    found = found or [
        one for one in panel.configurations if words and all(_is(one.runs[0].keys, word) for word in words)
    ]
    if len(found) > 1:
        listed = "; ".join(one.name for one in found)
        raise UserError(
            f"baseline={label}: picks {len(found)} configurations ({listed}); name one by its letter, or by more keys"
        )
    return found


def _words(label: str) -> list[str]:
    """`a=1, b=[2,3]` -> `a=1` and `b=[2,3]`."""
    return [word.strip() for word in re.split(r",(?![^\[]*\])", label)]


def _is(keys: Mapping[str, Any], word: str) -> bool:
    """Whether a key that is called so, whole or by its end, has the value."""
    key, there, value = word.partition("=")
    if not there:
        return False
    whole = [name for name in (key, f"{key}.name") if name in keys]
    named = whole or [name for name in keys if f".{name.removesuffix('.name')}".endswith(f".{key}")]
    return any(plain(keys[name]) == value for name in named) if named else value == "absent"

"""What is compared: every two configurations, each with a baseline, or groups of them as planned; and who is ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from pilotrl.analysis.contrasts import Contrast, corrected, effect
from pilotrl.report.configurations import GRADED, Configuration, Panel
from pilotrl.report.runs import Cell
from pilotrl.types import Task

APART = "cannot be told apart"
Sides = tuple[Sequence[Configuration], Sequence[Configuration]]
"""Two groups of configurations, whose means are compared."""


@dataclass(frozen=True)
class Comparison:
    """One number of an evaluation set, the mean of the first configurations minus that of the second."""

    cell: Cell
    first: Sequence[Configuration]
    second: Sequence[Configuration]
    contrast: Contrast

    @property
    def pair(self) -> str:
        return " − ".join(_marks(side) if len(side) == 1 else f"({_marks(side)})" for side in (self.first, self.second))

    @property
    def called(self) -> tuple[str, str]:
        """Both sides, as a sentence calls them."""
        first, second = (
            f"{side[0].mark} ({side[0].label})" if len(side) == 1 else f"the mean of {_marks(side)}"
            for side in (self.first, self.second)
        )
        return first, second

    @property
    def verdict(self) -> str:
        """Who is ahead, if that can be said."""
        return verdict(self.contrast, _marks(self.first), _marks(self.second))


def compared(
    panel: Panel, baseline: Configuration | None = None, planned: Sequence[Sides] = ()
) -> Iterator[Comparison]:
    """On everything that all of their runs measured: every two configurations; or each of the others minus the baseline; or
    what was planned and nothing else. Those on one number are a family for Holm's correction."""
    pairs: list[Sides] = [([first], [second]) for first, second in combinations(panel.configurations, 2)]
    if baseline is not None:
        pairs = [([other], [baseline]) for other in panel.configurations if other is not baseline]
    for cell in panel.cells:
        asked = [sides for sides in planned or pairs if comparable_on(cell, [*sides[0], *sides[1]])]
        found = corrected([effect(*([values(cell, one) for one in side] for side in sides)) for sides in asked])
        for sides, contrast in zip(asked, found, strict=True):
            yield Comparison(cell, *sides, contrast)


def values(cell: Cell, configuration: Configuration) -> list[dict[Task, float]]:
    """Of its runs after training."""
    return [run.after[cell] for run in configuration.runs]


def comparable_on(cell: Cell, configurations: Sequence[Configuration]) -> bool:
    """Whether every run measured it, and one judge graded all of them where it is a judge's measure."""
    if cell.measure in GRADED and any(one.judge != configurations[0].judge for one in configurations):
        return False  # two yardsticks
    return all(run.after.get(cell) for configuration in configurations for run in configuration.runs)


def verdict(found: Contrast, first: str, second: str) -> str:
    """Which of the two is higher, if that holds after Holm's correction."""
    if found.p is None:
        return "too few tasks"
    if not found.holds:
        return APART
    ahead = first if (found.over_tasks["mean"] or 0) > 0 else second
    return f"{ahead} higher" + ("" if found.over_seeds else " in these runs (one seed)")


def _marks(side: Sequence[Configuration]) -> str:
    return ", ".join(one.mark for one in side)

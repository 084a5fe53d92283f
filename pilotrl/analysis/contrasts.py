"""One way of training against another, on the same tasks: how far apart, and whether chance alone could have done it.

An interval is a single one, of 95 %. Where several differences are asked about at once, `corrected` says which of them hold
together (Holm, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pilotrl.analysis.statistics import CONFIDENCE, Interval, resampled
from pilotrl.types import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = NDArray[np.float64]

POWER = 0.8
"""How often an effect of the size called detectable is found."""


@dataclass(frozen=True)
class Contrast:
    """A difference, and how far chance could have moved it."""

    tasks: int
    """Those that every run defines; the others are left out."""
    over_tasks: Interval
    """Covers the choice of tasks and the sampling on them, for the very weights that these runs ended with."""
    over_seeds: Interval | None
    """Covers the luck of training too. None where a configuration has one run: nothing then says how seeds differ."""
    error: float
    """Standard error by the wider interval there is; 0 where nothing varies ..."""
    freedom: float
    """... and its degrees of freedom."""
    p: float | None
    """The level at which one of the intervals would reach 0, two-sided: below 1 - `CONFIDENCE` where both exclude it. None for
    too few tasks."""
    p_holm: float | None
    """The same after Holm's correction for its family."""
    family: int = 1
    """How many differences are asked about together."""

    @property
    def holds(self) -> bool:
        """Whether it is told apart from 0, after the correction."""
        return self.p_holm is not None and self.p_holm < 1 - CONFIDENCE

    @property
    def detectable(self) -> float | None:
        """The true difference which runs like these would find with probability `POWER`, after the correction. None where
        nothing varies."""
        return detectable(self.error, self.freedom, self.family) if self.error else None


Values = Sequence[Mapping[Task, float]]
"""One number a task, for each run of a configuration."""


def gain(before: Values, after: Values) -> Contrast:
    """After minus before of a configuration's runs, in the same order both times."""
    tasks = _shared([*before, *after])
    return _contrast(len(tasks), [_table(after, tasks) - _table(before, tasks)])


def difference(first: Values, second: Values) -> Contrast:
    """The runs of one configuration minus those of another, on the tasks that all of them define."""
    return effect([first], [second])


def effect(first: Sequence[Values], second: Sequence[Values]) -> Contrast:
    """Mean of several configurations minus the mean of several others, on the tasks that all of their runs define.

    Each configuration weighs the same, however many runs it has. Where both sides are crossed with the same values of
    other keys, this is a main effect: the mean over those values of the difference between two configurations.
    Raises ValueError where a side is empty.
    """
    if not (first and second):
        raise ValueError("a contrast needs a configuration on each side")
    tasks = _shared([run for configuration in (*first, *second) for run in configuration])
    above = [_table(configuration, tasks) / len(first) for configuration in first]
    return _contrast(len(tasks), above + [_table(configuration, tasks) / -len(second) for configuration in second])


def corrected(found: Sequence[Contrast]) -> list[Contrast]:
    """The same as one family: all of those that hold are true differences in 95 of 100 families, whatever depends on what.
    Those of too few tasks do not count."""
    asked = [one.p for one in found if one.p is not None]
    adjusted = iter(holm(asked))
    return [
        one if one.p is None else replace(one, p_holm=next(adjusted), family=max(one.family, len(asked)))
        for one in found
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by the step-down method of Holm (1979), in the order given: the smallest of m times m,
    the next times m - 1 and so on, none less than the one before it or more than 1."""
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = least
    return adjusted


def detectable(error: float, freedom: float, family: int = 1) -> float:
    """The true difference that a two-sided t test at (1 - `CONFIDENCE`) / `family` finds with probability `POWER`: that is the
    level that the first of a family has to pass.

    error: standard error of the difference. freedom: its degrees of freedom. The test's statistic is noncentral t; its
    other tail is left out (below 1e-5 there).
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    critical = t.isf((1 - CONFIDENCE) / family / 2, freedom)
    return error * float(brentq(lambda shift: nct.sf(critical, freedom, shift) - POWER, 0, 4 * critical))


def _shared(runs: Values) -> list[Task]:
    return [task for task in runs[0] if all(task in run for run in runs)]


def _table(runs: Values, tasks: Sequence[Task]) -> Table:
    import numpy as np

    return np.array([[run[task] for task in tasks] for run in runs])


def _contrast(tasks: int, parts: Sequence[Table]) -> Contrast:
    """Of the sum of the means of the parts, each (runs, tasks)."""
    import numpy as np

    # what rounding leaves of equal numbers is no difference, and its interval would exclude 0
    by_task = np.sum([part.mean(axis=0) for part in parts], axis=0).round(12)
    over_tasks, drawn = resampled([by_task.tolist()])
    if tasks < 2:
        return Contrast(tasks, over_tasks, None, 0.0, 0.0, None, None)
    several, mean = all(len(part) > 1 for part in parts), float(by_task.mean())
    error, freedom = _error(by_task, parts if several else ())
    if error == 0:
        p = float(over_tasks["mean"] == 0)
        return Contrast(tasks, over_tasks, over_tasks if several else None, 0.0, freedom, p, p)
    p = float(over_tasks["mean"] == 0) if drawn is None else _p_over_tasks(drawn, by_task)
    if not several:
        return Contrast(tasks, over_tasks, None, error, freedom, p, p)
    p = max(p, _t_test(mean, error, freedom))
    return Contrast(tasks, over_tasks, _t_interval(mean, error, freedom), error, freedom, p, p)


def _p_over_tasks(drawn: Table, by_task: Table) -> float:
    """The level at which the percentile interval of the means drawn would end at 0. Where none of so many lies beyond 0 they tell
    no more, and it is what a t test says, at most 2 / their number."""
    import numpy as np

    p = 2 * min(_reached(np.sort(drawn)), _reached(np.sort(-drawn)), 0.5)
    least = 2 / len(drawn)
    error = math.sqrt(float(by_task.var(ddof=1)) / len(by_task))
    return p if p >= least else min(least, _t_test(float(by_task.mean()), error, len(by_task) - 1))


def _reached(drawn: Table) -> float:
    """The largest share whose quantile, between two draws as numpy's percentiles are, is at most 0."""
    import numpy as np

    place = int(np.searchsorted(drawn, 0.0, side="right"))
    if place in (0, len(drawn)):
        return place / len(drawn)
    below, above = drawn[place - 1], drawn[place]
    return float((place - 1 - below / (above - below)) / (len(drawn) - 1))


def _t_test(mean: float, error: float, freedom: float) -> float:
    from scipy.stats import t

    return float(2 * t.sf(abs(mean) / error, freedom))


def _t_interval(mean: float, error: float, freedom: float) -> Interval:
    from scipy.stats import t

    low, high = t.interval(CONFIDENCE, freedom, loc=mean, scale=error)
    return {"mean": mean, "low": float(low), "high": float(high)}


def _error(by_task: Table, parts: Sequence[Table]) -> tuple[float, float]:
    """Standard error of a mean over tasks, and its degrees of freedom; with `parts`, seeds are drawn as tasks are.

    Variance over tasks, plus for each part that over its runs. Of what is a run's luck on single tasks both have a share; it
    is not taken off, as it is in the two-way clustering of Cameron, Gelbach and Miller (2011): with two or three runs the
    difference of two estimates is 0 too often, and intervals then too narrow. Degrees of freedom after Satterthwaite (1946).
    """
    terms = [(float(by_task.var(ddof=1)) / len(by_task), len(by_task) - 1)]
    terms += [(_between_runs(part), len(part) - 1) for part in parts]
    variance = sum(term for term, _ in terms)
    spread = sum(term**2 / freedom for term, freedom in terms)
    return math.sqrt(variance), variance**2 / spread if spread else math.inf


def _between_runs(part: Table) -> float:
    """Variance of the mean over runs, which is never less than what their luck on single tasks makes it: the two are the mean
    squares of runs and of the rest in the analysis of variance of a crossed table."""
    runs, tasks = part.shape
    means = part.mean(axis=1)
    rest = part - part.mean(axis=0) - means[:, None] + part.mean()
    luck = (rest**2).sum() / ((runs - 1) * (tasks - 1)) / (runs * tasks)
    return max(float(luck), float(means.var(ddof=1) / runs))

"""Before against after, one way against another, on the same tasks: means over tasks, and how far chance alone could
have moved them.

Everything is a mean over tasks of a mean over the samples of a task, so that a task with a broken sample weighs as much
as any other. Intervals are over tasks, because tasks are what an evaluation set draws; samples of one task are not independent.
Where several seeds were run, a second interval covers the luck of training as well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from pilotrl.types import Ending, Episode, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = NDArray[np.float64]

Interval = dict[str, float | None]
"""`mean`, `low` and `high`; None where too few tasks define them."""
Summary = dict[str, float | None]

RESAMPLES = 10_000
CONFIDENCE = 0.95
POWER = 0.8
"""How often an effect of the size called detectable is found."""
SEED = 0


def _adherence(episode: Episode) -> float | None:
    return _mean(turn.adherence / 2 for turn in episode.turns if turn.adherence is not None)


def _ended(by: Ending) -> Callable[[Episode], float | None]:
    return lambda episode: None if episode.ended_by is None else float(episode.ended_by == by)


MEASURES: dict[str, Callable[[Episode], float | None]] = {
    "success": lambda episode: float(episode.outcome == "solved"),
    "score": lambda episode: episode.score,
    "adherence": _adherence,
    "plan_quality": lambda episode: episode.terms.get("plan_quality"),
    "correctness": lambda episode: episode.terms.get("correctness"),
    "turns": lambda episode: float(len(episode.turns)),
    "tokens": lambda episode: float(episode.tokens),
    "ended/environment": _ended("environment"),
    "ended/turn_limit": _ended("turn_limit"),
    "ended/context": _ended("context"),
}
"""What an evaluation reports, one number an episode; None where the episode does not define it."""


def summarize(episodes: Iterable[Episode]) -> Summary:
    """Mean over tasks of the mean over samples, for each of `MEASURES`. Broken episodes are left out; a measure that no
    episode defines is None. `turns` and `tokens` (sampled ones) are counts an episode; the others lie in [0, 1]."""
    played = list(episodes)
    return {key: _mean(per_task(played, measure).values()) for key, measure in MEASURES.items()}


def paired(before: Iterable[Episode], after: Iterable[Episode]) -> dict[str, Interval]:
    """After minus before for each of `MEASURES`, over the tasks that define the measure both times."""
    old, new = list(before), list(after)
    return {key: _paired([old], [new], measure) for key, measure in MEASURES.items()}


def panel_block(
    before: Sequence[Episode],
    after: Sequence[Episode],
    greedy_before: Sequence[Episode] = (),
    greedy_after: Sequence[Episode] = (),
    averages: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, object]:
    """The `eval` block of summary.json: `before`, `after`, `paired`, and under `greedy` the same three where that was
    played too. In a mixture, where `averages` says what is averaged over which environments, `by_env` and `averages`."""
    block: dict[str, object] = {
        "before": summarize(before),
        "after": summarize(after),
        "paired": paired(before, after),
    }
    if averages:
        block["by_env"] = _by_env(before, after)
        block["averages"] = {name: _averaged(before, after, envs) for name, envs in averages.items()}
    if greedy_before or greedy_after:
        block["greedy"] = panel_block(greedy_before, greedy_after, averages=averages)
    return block


def _by_env(before: Sequence[Episode], after: Sequence[Episode]) -> dict[str, dict[str, object]]:
    """Blocks of the environments that were played, by name."""
    names = sorted({episode.task.env for episode in after})
    return {name: panel_block(_of(before, name), _of(after, name)) for name in names}


def _averaged(before: Sequence[Episode], after: Sequence[Episode], envs: Sequence[str]) -> dict[str, object]:
    """The block of a mean over environments of what each one's block has; None where one of them does not define it."""
    old, new = [_of(before, name) for name in envs], [_of(after, name) for name in envs]
    return {
        "before": _mean_summary([summarize(episodes) for episodes in old]),
        "after": _mean_summary([summarize(episodes) for episodes in new]),
        "paired": {key: _paired(old, new, measure) for key, measure in MEASURES.items()},
    }


def _of(episodes: Iterable[Episode], env: str) -> list[Episode]:
    return [episode for episode in episodes if episode.task.env == env]


def _mean_summary(summaries: Sequence[Summary]) -> Summary:
    found = {key: [value for one in summaries if (value := one[key]) is not None] for key in MEASURES}
    return {key: fmean(values) if len(values) == len(summaries) else None for key, values in found.items()}


def _mean_interval(samples: Sequence[Sequence[float]]) -> Interval:
    """Of the mean of the means of samples, each of which is drawn from by itself."""
    if not all(samples):
        return {"mean": None, "low": None, "high": None}
    # the mean of equal numbers is that number: what rounding leaves of a sum is no difference
    equal = [min(sample) == max(sample) for sample in samples]
    mean = fmean(sample[0] if same else fmean(sample) for sample, same in zip(samples, equal, strict=True))
    if min(map(len, samples)) < 2:
        return {"mean": mean, "low": None, "high": None}
    level: Interval = {"low": mean, "high": mean}
    return {"mean": mean, **(level if all(equal) else _bootstrap(samples))}


def paired_interval(before: Sequence[float | None], after: Sequence[float | None]) -> Interval:
    """Mean of after minus before and its 95 % percentile interval, bootstrapped over tasks (Efron, 1979).

    Both sequences hold one value a task, in the same order of tasks (ValueError if their lengths differ); None on
    either side leaves the task out. One task gives a mean without an interval, none gives no mean either. Equal input
    gives equal output.
    """
    pairs = zip(before, after, strict=True)
    return _mean_interval([[new - old for old, new in pairs if old is not None and new is not None]])


def _bootstrap(samples: Sequence[Sequence[float]]) -> Interval:
    import numpy as np
    from scipy.stats import bootstrap  # takes a second to import: not at the start of every command

    def mean(*drawn: Table, axis: int) -> Table:
        means: Table = np.mean([np.mean(sample, axis=axis) for sample in drawn], axis=0)
        return means

    # percentile rather than BCa, whose correction is undefined when nearly all tasks moved alike
    result = bootstrap(samples, mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=SEED)
    return {"low": float(result.confidence_interval.low), "high": float(result.confidence_interval.high)}


def _paired(
    before: Sequence[Sequence[Episode]], after: Sequence[Sequence[Episode]], measure: Callable[[Episode], float | None]
) -> Interval:
    """Each holds the episodes of one environment or of several, in the same order both times."""
    pairs = [(per_task(old, measure), per_task(new, measure)) for old, new in zip(before, after, strict=True)]
    return _mean_interval([[new[task] - old[task] for task in old if task in new] for old, new in pairs])


def per_task(episodes: Iterable[Episode], measure: Callable[[Episode], float | None]) -> dict[Task, float]:
    """Mean over the samples of each task; tasks where no sample defines the measure are absent."""
    samples: defaultdict[Task, list[float]] = defaultdict(list)
    for episode in episodes:
        value = None if episode.outcome == "broken" else measure(episode)
        if value is not None:
            samples[episode.task].append(value)
    return {task: fmean(values) for task, values in samples.items()}


@dataclass(frozen=True)
class Contrast:
    """A difference, and how far chance could have moved it."""

    tasks: int
    """Those that every run defines; the others are left out."""
    over_tasks: Interval
    """Covers the choice of tasks and the sampling on them, for the very weights that these runs ended with."""
    over_seeds: Interval | None
    """Covers the luck of training too. None where a configuration has one run: nothing then says how seeds differ."""
    detectable: float | None
    """The true difference which runs like these would find with probability `POWER`: by the wider interval there is."""


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


def detectable(error: float, freedom: float) -> float:
    """The true difference that a two-sided t test at 1 - `CONFIDENCE` finds with probability `POWER`.

    error: standard error of the difference. freedom: its degrees of freedom. The test's statistic is noncentral t; its
    other tail is left out (below 1e-5 there).
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    critical = t.ppf((1 + CONFIDENCE) / 2, freedom)
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
    over_tasks = paired_interval([0.0] * tasks, by_task.tolist())
    if tasks < 2:
        return Contrast(tasks, over_tasks, None, None)
    several = all(len(part) > 1 for part in parts)
    error, freedom = _error(by_task, parts if several else ())
    if error == 0:
        return Contrast(tasks, over_tasks, over_tasks if several else None, None)
    over_seeds = _t_interval(float(by_task.mean()), error, freedom) if several else None
    return Contrast(tasks, over_tasks, over_seeds, detectable(error, freedom))


def _t_interval(mean: float, error: float, freedom: float) -> Interval:
    from scipy.stats import t

    low, high = t.interval(CONFIDENCE, freedom, loc=mean, scale=error)
    return {"mean": mean, "low": float(low), "high": float(high)}


def _error(by_task: Table, parts: Sequence[Table]) -> tuple[float, float]:
    """Standard error of a mean over tasks, and its degrees of freedom; with `parts`, seeds are drawn as tasks are.

    Variance over tasks, plus for each part the variance over its runs, less what of it is a run's luck on single tasks,
    which the first already has (the two-way clustering of Cameron, Gelbach and Miller, 2011; never below 0). Degrees of
    freedom after Satterthwaite (1946).
    """
    terms = [(float(by_task.var(ddof=1)) / len(by_task), len(by_task) - 1)]
    terms += [(_between_runs(part), len(part) - 1) for part in parts]
    variance = sum(term for term, _ in terms)
    spread = sum(term**2 / freedom for term, freedom in terms)
    return math.sqrt(variance), variance**2 / spread if spread else math.inf


def _between_runs(part: Table) -> float:
    """Variance of the mean over runs that comes from the runs themselves: the analysis of variance of a crossed table."""
    runs, tasks = part.shape
    means = part.mean(axis=1)
    rest = part - part.mean(axis=0) - means[:, None] + part.mean()
    noise = (rest**2).sum() / ((runs - 1) * (tasks - 1)) / (runs * tasks)
    return max(0.0, float(means.var(ddof=1) / runs - noise))


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return fmean(kept) if kept else None

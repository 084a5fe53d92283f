"""Before against after, one way against another, on the same tasks: means over tasks, and how far chance alone could
have moved them.

Everything is a mean over tasks of a mean over the samples of a task, so that a task with a broken sample weighs as much
as any other. Intervals are over tasks, because tasks are what an evaluation set draws; samples of one task are not independent.
What one way of training is above another is in contrasts.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    levels: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """The `eval` block of summary.json: `before`, `after`, `paired`, and under `greedy` the same three where that was
    played too. In a mixture, where `averages` says what is averaged over which environments, `by_env` and `averages`.
    Where `levels`, by the task's name, are more than one, `by_level`: success alone, and on how many tasks."""
    block: dict[str, object] = {
        "before": summarize(before),
        "after": summarize(after),
        "paired": paired(before, after),
    }
    if averages:
        block["by_env"] = _by_env(before, after)
        block["averages"] = {name: _averaged(before, after, envs) for name, envs in averages.items()}
    if levels and len({*levels.values()}) > 1:
        block["by_level"] = _by_level(before, after, levels)
    if greedy_before or greedy_after:
        block["greedy"] = panel_block(greedy_before, greedy_after, averages=averages, levels=levels)
    return block


def _by_env(before: Sequence[Episode], after: Sequence[Episode]) -> dict[str, dict[str, object]]:
    """Blocks of the environments that were played, by name."""
    names = sorted({episode.task.env for episode in after})
    return {name: panel_block(_of(before, name), _of(after, name)) for name in names}


def _by_level(
    before: Sequence[Episode], after: Sequence[Episode], levels: Mapping[str, str]
) -> dict[str, dict[str, object]]:
    """Success of the tasks of each level: before, after, paired; and the number of tasks."""
    found: dict[str, dict[str, object]] = {}
    for name in sorted({*levels.values()}):
        old, new = ([episode for episode in of if levels.get(episode.task.id) == name] for of in (before, after))
        values = [per_task(of, MEASURES["success"]) for of in (old, new)]
        found[name] = {
            "tasks": len(values[1]),
            "before": {"success": _mean(values[0].values())},
            "after": {"success": _mean(values[1].values())},
            "paired": {"success": _paired([old], [new], MEASURES["success"])},
        }
    return found


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
    return resampled(samples)[0]


def resampled(samples: Sequence[Sequence[float]]) -> tuple[Interval, Table | None]:
    """Interval of the mean of the means of samples, each of which is drawn from by itself; and the means that were drawn, if
    anything varies."""
    if not all(samples):
        return {"mean": None, "low": None, "high": None}, None
    # the mean of equal numbers is that number: what rounding leaves of a sum is no difference
    equal = [min(sample) == max(sample) for sample in samples]
    mean = fmean(sample[0] if same else fmean(sample) for sample, same in zip(samples, equal, strict=True))
    if min(map(len, samples)) < 2:
        return {"mean": mean, "low": None, "high": None}, None
    if all(equal):
        return {"mean": mean, "low": mean, "high": mean}, None
    ends, drawn = _bootstrap(samples)
    return {"mean": mean, **ends}, drawn


def paired_interval(before: Sequence[float | None], after: Sequence[float | None]) -> Interval:
    """Mean of after minus before and its 95 % percentile interval, bootstrapped over tasks (Efron, 1979).

    Both sequences hold one value a task, in the same order of tasks (ValueError if their lengths differ); None on
    either side leaves the task out. One task gives a mean without an interval, none gives no mean either. Equal input
    gives equal output.
    """
    pairs = zip(before, after, strict=True)
    return _mean_interval([[new - old for old, new in pairs if old is not None and new is not None]])


def _bootstrap(samples: Sequence[Sequence[float]]) -> tuple[Interval, Table]:
    import numpy as np
    from scipy.stats import bootstrap  # takes a second to import: not at the start of every command

    def mean(*drawn: Table, axis: int) -> Table:
        means: Table = np.mean([np.mean(sample, axis=axis) for sample in drawn], axis=0)
        return means

    # percentile rather than BCa, whose correction is undefined when nearly all tasks moved alike
    result = bootstrap(samples, mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=SEED)
    low, high = result.confidence_interval
    return {"low": float(low), "high": float(high)}, result.bootstrap_distribution


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


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return fmean(kept) if kept else None

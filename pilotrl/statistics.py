"""Before against after, on the same tasks: means over tasks, and how far chance alone could have moved them.

Everything is a mean over tasks of a mean over the samples of a task, so that a task with a broken sample weighs as much
as any other. Intervals are over tasks, because tasks are what a panel draws; samples of one task are not independent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from pilotrl.types import Episode, Task

Interval = dict[str, float | None]
"""`mean`, `low` and `high`; None where too few tasks define them."""
Summary = dict[str, float | None]

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0


def _adherence(episode: Episode) -> float | None:
    return _mean(turn.adherence / 2 for turn in episode.turns if turn.adherence is not None)


MEASURES: dict[str, Callable[[Episode], float | None]] = {
    "success": lambda episode: float(episode.outcome == "solved"),
    "score": lambda episode: episode.score,
    "adherence": _adherence,
    "plan_quality": lambda episode: episode.terms.get("plan_quality"),
    "turns": lambda episode: float(len(episode.turns)),
    "tokens": lambda episode: float(episode.tokens),
}
"""What a panel reports, one number an episode; None where the episode does not define it."""


def summarize(episodes: Iterable[Episode]) -> Summary:
    """Mean over tasks of the mean over samples, for each of `MEASURES`. Broken episodes are left out; a measure that no
    episode defines is None. `success`, `score`, `adherence` and `plan_quality` lie in [0, 1]; `turns` and `tokens`
    (sampled ones) are counts an episode."""
    played = list(episodes)
    return {key: _mean(_per_task(played, measure).values()) for key, measure in MEASURES.items()}


def paired(before: Iterable[Episode], after: Iterable[Episode]) -> dict[str, Interval]:
    """After minus before for each of `MEASURES`, over the tasks that define the measure both times."""
    old, new = list(before), list(after)
    return {key: _paired(_per_task(old, measure), _per_task(new, measure)) for key, measure in MEASURES.items()}


def panel_block(
    before: Sequence[Episode],
    after: Sequence[Episode],
    greedy_before: Sequence[Episode] = (),
    greedy_after: Sequence[Episode] = (),
) -> dict[str, object]:
    """The `eval` block of summary.json: `before`, `after`, `paired`, and under `greedy` the same three where that was
    played too."""
    block: dict[str, object] = {
        "before": summarize(before),
        "after": summarize(after),
        "paired": paired(before, after),
    }
    if greedy_before or greedy_after:
        block["greedy"] = panel_block(greedy_before, greedy_after)
    return block


def paired_interval(before: Sequence[float | None], after: Sequence[float | None]) -> Interval:
    """Mean of after minus before and its 95 % percentile interval, bootstrapped over tasks (Efron, 1979).

    Both sequences hold one value a task, in the same order of tasks (ValueError if their lengths differ); None on
    either side leaves the task out. One task gives a mean without an interval, none gives no mean either. Equal input
    gives equal output.
    """
    pairs = zip(before, after, strict=True)
    differences = [new - old for old, new in pairs if old is not None and new is not None]
    if len(differences) < 2:
        return {"mean": _mean(differences), "low": None, "high": None}
    if min(differences) == max(differences):  # nothing to resample, and a sum's rounding is no difference
        return dict.fromkeys(("mean", "low", "high"), differences[0])
    return {"mean": fmean(differences)} | _bootstrap(differences)


def _bootstrap(values: Sequence[float]) -> Interval:
    import numpy as np
    from scipy.stats import bootstrap  # takes a second to import: not at the start of every command

    # percentile rather than BCa, whose correction is undefined when nearly all tasks moved alike
    result = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=SEED
    )
    return {"low": float(result.confidence_interval.low), "high": float(result.confidence_interval.high)}


def _paired(before: Mapping[Task, float], after: Mapping[Task, float]) -> Interval:
    tasks = [task for task in before if task in after]
    return paired_interval([before[task] for task in tasks], [after[task] for task in tasks])


def _per_task(episodes: Iterable[Episode], measure: Callable[[Episode], float | None]) -> dict[Task, float]:
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

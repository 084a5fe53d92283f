"""Agreement of two judges, and of a judge with ground-truth success: share of equal verdicts, and Cohen's kappa."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilotrl.analysis.statistics import CONFIDENCE, RESAMPLES, SEED, Interval
from pilotrl.audit.episodes import JUDGED, MEASURES, Panels
from pilotrl.rewards.judge.grading import due
from pilotrl.types import Episode, PlanScores, Task

Table = NDArray[np.float64]
Pair = tuple[Episode, Episode]
"""One episode, graded by two judges."""
Verdicts = Callable[[Episode], list[int | None]]

LEVELS = 6
"""Size of the tables of verdicts: grades are 0 to 5, at most."""
APPROVED = 0.5
"""A judge approves of an episode that it grades above this; grades are in [0, 1]."""


def _scores(index: int) -> Verdicts:
    """Reads one of the three scores of each plan; replies that are no plan are left out, since no judge scores them."""

    def read(episode: Episode) -> list[int | None]:
        plans = [
            call.written for call in episode.calls if call.selected and call.written and call.written.steps is not None
        ]
        return [None if written.scores is None else written.scores[index] for written in plans]

    return read


SCALES: dict[str, tuple[Verdicts, int]] = {
    "adherence": (lambda episode: [turn.adherence for turn, _ in due(episode)], 0)
}
SCALES |= {name: (_scores(index), 2) for index, name in enumerate(PlanScores._fields)}
"""Kinds of verdict, and for weighted kappa the power of the distance between two verdicts; 0: unweighted."""


def kappa(tables: Table, power: int) -> Table:
    """[..., levels, levels] counts -> [...]: 1 minus observed disagreement over that expected by chance (Cohen, 1960; with
    squared distances as weights if `power` is 2: Cohen, 1968). NaN if all verdicts of both are equal."""
    levels = np.arange(tables.shape[-1])
    weights = np.abs(levels[:, None] - levels) ** power * (levels[:, None] != levels)
    expected = tables.sum(-1)[..., :, None] * tables.sum(-2)[..., None, :] / tables.sum((-1, -2))[..., None, None]
    with np.errstate(invalid="ignore"):
        found: Table = 1 - (weights * tables).sum((-1, -2)) / (weights * expected).sum((-1, -2))
    return found


def agreed(counts: Iterable[tuple[Task, int, int]], power: int) -> dict[str, Any] | None:
    """Number of pairs of verdicts, share of equal ones, and kappa with its interval over tasks. None without any pair."""
    by_task: defaultdict[Task, Table] = defaultdict(lambda: np.zeros((LEVELS, LEVELS)))
    for task, one, other in counts:
        by_task[task][one, other] += 1
    if not by_task:
        return None
    tables = np.array(list(by_task.values()))
    total = tables.sum(0)
    counted = {"tasks": len(tables), "items": int(total.sum()), "agreement": float(total.trace() / total.sum())}
    return counted | {"kappa": _interval(tables, power)}


def _interval(tables: Table, power: int) -> Interval:
    """Kappa with its percentile bootstrap interval over tasks. Resamples for which kappa is undefined are left out."""
    mean, count = float(kappa(tables.sum(0), power)), len(tables)
    if np.isnan(mean):
        return {"mean": None, "low": None, "high": None}
    if count < 2:
        return {"mean": mean, "low": None, "high": None}
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    values = kappa(np.tensordot(drawn, tables, 1), power)
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"mean": mean, "low": float(low), "high": float(high)}


def between(first: Panels, second: Panels, envs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Agreement of two judges on the same steps and plans: rows by kind of verdict, environment, and before, after or both."""
    for name, (read, power) in SCALES.items():
        for where, pairs in _scopes(first, second, envs):
            both = ((a.task, zip(read(a), read(b), strict=True)) for a, b in pairs)
            known = ((task, x, y) for task, verdicts in both for x, y in verdicts if x is not None and y is not None)
            if found := agreed(known, power):
                yield {"of": name, **where, **found}


def with_success(graded: Panels, envs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Agreement of a judge's approval with ground-truth success: rows as above.

    `solved_higher`: the probability that a solved episode has a higher grade than one that was not solved; None, like kappa,
    if all were solved or none."""
    for name in JUDGED:
        for where, pairs in _scopes(graded, graded, envs):
            known = [(episode, grade) for episode, _ in pairs if (grade := MEASURES[name](episode)) is not None]
            solved = [int(episode.outcome == "solved") for episode, _ in known]
            both = [(e.task, int(grade > APPROVED), good) for (e, grade), good in zip(known, solved, strict=True)]
            if found := agreed(both, 0):
                yield {"of": name, **where, **found, **_ranked([grade for _, grade in known], solved)}


def _ranked(grades: Sequence[float], solved: Sequence[int]) -> dict[str, Any]:
    from scipy.stats import mannwhitneyu  # takes a second to import

    if len(set(solved)) == 1:
        return {"solved_higher": None, "kappa": {"mean": None, "low": None, "high": None}}
    good, others = ([g for g, s in zip(grades, solved, strict=True) if s == which] for which in (1, 0))
    higher = mannwhitneyu(good, others, method="asymptotic").statistic / (len(good) * len(others))
    return {"solved_higher": float(higher)}


def _scopes(first: Panels, second: Panels, envs: Sequence[str]) -> Iterator[tuple[dict[str, str], list[Pair]]]:
    """Pairs of episodes by environment and by before, after or both; the protocols are pooled."""
    whole = [
        (when, pair)
        for protocol in first
        for when in first[protocol]
        for pair in zip(first[protocol][when], second[protocol][when], strict=True)
        if pair[0].outcome != "broken"
    ]
    for env in ("all", *(envs if len(envs) > 1 else ())):
        for when in ("both", "before", "after"):
            pairs = [pair for w, pair in whole if when in (w, "both") and env in (pair[0].task.env, "all")]
            yield {"env": env, "when": when}, pairs

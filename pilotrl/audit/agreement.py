"""How far two judges agree, and a judge with the world: shares of equal verdicts, and Cohen's kappa with its interval."""

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
"""An episode as two judges have graded it."""
Verdicts = Callable[[Episode], list[int | None]]

LEVELS = 6
"""More than any judge tells apart."""
APPROVED = 0.5
"""A judge approves of an episode which it gives more than this, of 1."""


def _scores(place: int) -> Verdicts:
    """Of plans that are plans: the others get their scores from no judge."""

    def read(episode: Episode) -> list[int | None]:
        held = [
            call.written for call in episode.calls if call.selected and call.written and call.written.steps is not None
        ]
        return [None if written.scores is None else written.scores[place] for written in held]

    return read


SCALES: dict[str, tuple[Verdicts, int]] = {
    "adherence": (lambda episode: [turn.adherence for turn, _ in due(episode)], 0)
}
SCALES |= {name: (_scores(place), 2) for place, name in enumerate(PlanScores._fields)}
"""What judges give, and the power of the distance between two verdicts by which they disagree; 0: equal or not."""


def kappa(tables: Table, power: int) -> Table:
    """[..., levels, levels] counts -> [...]: 1 less observed disagreement over that expected by chance (Cohen, 1960; weighted
    by squared distance where `power` is 2: Cohen, 1968). NaN where both say one and the same thing only."""
    levels = np.arange(tables.shape[-1])
    apart = np.abs(levels[:, None] - levels) ** power * (levels[:, None] != levels)
    expected = tables.sum(-1)[..., :, None] * tables.sum(-2)[..., None, :] / tables.sum((-1, -2))[..., None, None]
    with np.errstate(invalid="ignore"):
        found: Table = 1 - (apart * tables).sum((-1, -2)) / (apart * expected).sum((-1, -2))
    return found


def agreed(counts: Iterable[tuple[Task, int, int]], power: int) -> dict[str, Any] | None:
    """Of pairs of verdicts: their number, the share of equal ones, kappa with its interval over tasks. None without any."""
    by_task: defaultdict[Task, Table] = defaultdict(lambda: np.zeros((LEVELS, LEVELS)))
    for task, one, other in counts:
        by_task[task][one, other] += 1
    if not by_task:
        return None
    tables = np.array(list(by_task.values()))
    total = tables.sum(0)
    about = {"tasks": len(tables), "items": int(total.sum()), "agreement": float(total.trace() / total.sum())}
    return about | {"kappa": _interval(tables, power)}


def _interval(tables: Table, power: int) -> Interval:
    """Percentile bootstrap: tasks are drawn again. Draws for which kappa is not defined are left out."""
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
    """Two judges on the same steps and plans: a row for each scale and environment, before, after, and both."""
    for name, (read, power) in SCALES.items():
        for where, pairs in _scopes(first, second, envs):
            both = ((a.task, zip(read(a), read(b), strict=True)) for a, b in pairs)
            known = ((task, x, y) for task, said in both for x, y in said if x is not None and y is not None)
            if found := agreed(known, power):
                yield {"of": name, **where, **found}


def with_success(graded: Panels, envs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What a judge approves of and what the environment calls solved: rows as above.

    `solved_higher`: the chance that an episode that was solved has a higher grade than one that was not; None, as kappa is,
    where all were solved or none."""
    for name in JUDGED:
        for where, pairs in _scopes(graded, graded, envs):
            held = [(episode, grade) for episode, _ in pairs if (grade := MEASURES[name](episode)) is not None]
            solved = [int(episode.outcome == "solved") for episode, _ in held]
            both = [(e.task, int(grade > APPROVED), good) for (e, grade), good in zip(held, solved, strict=True)]
            if found := agreed(both, 0):
                yield {"of": name, **where, **found, **_ranked([grade for _, grade in held], solved)}


def _ranked(grades: Sequence[float], solved: Sequence[int]) -> dict[str, Any]:
    from scipy.stats import mannwhitneyu  # takes a second to import

    if len(set(solved)) == 1:
        return {"solved_higher": None, "kappa": {"mean": None, "low": None, "high": None}}
    good, others = ([g for g, s in zip(grades, solved, strict=True) if s == which] for which in (1, 0))
    higher = mannwhitneyu(good, others, method="asymptotic").statistic / (len(good) * len(others))
    return {"solved_higher": float(higher)}


def _scopes(first: Panels, second: Panels, envs: Sequence[str]) -> Iterator[tuple[dict[str, str], list[Pair]]]:
    """Which environment and when, and the episodes as both have graded them, whoever wrote their plans."""
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

"""Differences between configurations: equal to what others compute, and right as often as they say."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pilotrl.analysis import contrasts, statistics
from pilotrl.analysis.contrasts import Contrast, corrected, detectable, difference, effect, gain, holm
from pilotrl.analysis.statistics import paired_interval
from pilotrl.types import Task


def runs(table: Any) -> list[dict[Task, float]]:
    """(runs, tasks) numbers as a report reads them."""
    return [{Task("toy", str(i), "test", 0): float(value) for i, value in enumerate(row)} for row in table]


def panels(rng: np.random.Generator, ease: Any, seeds: int, *, luck: float = 0.0, lift: float = 0.0) -> Any:
    """Success of the runs of a configuration, (seeds, tasks), of four samples on tasks from hard to easy. The logit of a run
    moves by `luck`, that of the configuration by `lift`, and that of a configuration on a task by a half."""
    logits = ease + lift + 0.5 * rng.normal(size=ease.shape) + luck * rng.normal(size=(seeds, 1))
    return rng.binomial(4, 1 / (1 + np.exp(-logits))) / 4


def pair(rng: np.random.Generator, seeds: int, tasks: int, *, luck: float = 0.0, lift: float = 0.0) -> list[Any]:
    """Two configurations on the same tasks; the first is better by `lift`."""
    ease = rng.uniform(-2, 2, tasks)
    return [panels(rng, ease, seeds, luck=luck, lift=lift), panels(rng, ease, seeds, luck=luck)]


def test_the_interval_over_tasks_is_that_of_a_bootstrap_and_of_a_t_test() -> None:
    """Computed again with nothing of ours."""
    first, second = pair(np.random.default_rng(0), 3, 90, lift=0.4)
    ours = difference(runs(first), runs(second[:2])).over_tasks
    by_task = first.mean(axis=0) - second[:2].mean(axis=0)
    draws = [by_task[np.random.default_rng(i).integers(0, 90, 90)].mean() for i in range(4000)]
    t_test = stats.ttest_1samp(by_task, 0).confidence_interval()
    error = by_task.std(ddof=1) / math.sqrt(90)
    assert ours["mean"] == pytest.approx(by_task.mean(), abs=1e-12)
    assert (ours["low"], ours["high"]) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.15 * error)
    assert (ours["low"], ours["high"]) == pytest.approx(t_test, abs=0.15 * error)


def test_what_one_run_gained_has_the_interval_of_its_summary() -> None:
    after, before = pair(np.random.default_rng(1), 1, 60, lift=1.0)
    found = gain(runs(before), runs(after))
    assert found.over_tasks == paired_interval(before[0].tolist(), after[0].tolist())
    assert found.over_seeds is None


def test_where_tasks_move_alike_seeds_are_what_a_t_test_on_the_runs_says() -> None:
    first, second = (np.array([means]).T + np.zeros(40) for means in ([0.1, 0.2, 0.6], [0.3, 0.1, 0.35]))
    ours = difference(runs(first), runs(second)).over_seeds
    theirs = stats.ttest_ind(first[:, 0], second[:, 0], equal_var=False).confidence_interval()
    assert ours is not None
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high))
    alone = gain(runs(second), runs(first)).over_seeds  # the same runs before and after: Student's test on their gains
    theirs = stats.ttest_1samp(first[:, 0] - second[:, 0], 0).confidence_interval()
    assert alone is not None
    assert (alone["low"], alone["high"]) == pytest.approx((theirs.low, theirs.high))


def test_a_main_effect_by_hand() -> None:
    """Two values of a key, crossed with two of another; two runs each on two tasks."""
    high = [runs([[0.9, 0.5], [0.7, 0.5]]), runs([[0.4, 0.2], [0.8, 0.2]])]  # means a task: .8 .5 and .6 .2
    low = [runs([[0.2, 0.4], [0.2, 0.6]]), runs([[0.2, 0.1], [0.4, 0.1]])]  # .2 .5 and .3 .1
    found = effect(high, low)
    assert found.tasks == 2
    assert found.over_tasks["mean"] == pytest.approx(0.25)  # .45 on the first task and .05 on the second
    assert (found.over_tasks["low"], found.over_tasks["high"]) == (0.05, 0.45)
    assert effect(low, high).over_tasks["mean"] == pytest.approx(-0.25)
    assert effect([*high, *high], low).over_tasks == found.over_tasks, (
        "configurations weigh alike, and not their number"
    )


def test_a_main_effect_over_seeds_by_hand() -> None:
    """Tasks move alike, so that only seeds are left: the variance of a weighted sum of means, and Satterthwaite's freedom."""
    means = ([0.1, 0.2, 0.6], [0.3, 0.4], [0.3, 0.1, 0.35], [0.2, 0.9])
    tables = [runs(np.array([of]).T + np.zeros(40)) for of in means]
    terms = [np.var(of, ddof=1) / len(of) / 4 for of in means]
    freedom = sum(terms) ** 2 / sum(term**2 / (len(of) - 1) for term, of in zip(terms, means, strict=True))
    mean = (np.mean(means[0]) + np.mean(means[1]) - np.mean(means[2]) - np.mean(means[3])) / 2
    ours = effect(tables[:2], tables[2:]).over_seeds
    assert ours is not None
    assert ours["mean"] == pytest.approx(mean)
    assert (ours["low"], ours["high"]) == pytest.approx(stats.t.interval(0.95, freedom, mean, math.sqrt(sum(terms))))


def test_one_configuration_of_one_run_leaves_a_main_effect_without_an_interval_over_seeds() -> None:
    rng = np.random.default_rng(8)
    tables = [runs(rng.random((seeds, 30))) for seeds in (3, 3, 3, 1)]
    assert effect(tables[:2], tables[2:]).over_seeds is None
    assert effect(tables[:2], tables[2:3]).over_seeds is not None
    with pytest.raises(ValueError, match="each side"):
        effect(tables, [])


def test_a_main_effect_is_told_more_exactly_than_one_of_the_differences_in_it() -> None:
    rng = np.random.default_rng(9)
    tables = [runs(rng.normal(size=(3, 60)) + rng.normal(size=(3, 1))) for _ in range(4)]
    one, both = difference(tables[0], tables[2]), effect(tables[:2], tables[2:])
    assert (both.detectable or 9) < (one.detectable or 0)


def test_tasks_that_a_run_does_not_define_are_left_out_for_all() -> None:
    first, second = (runs(table) for table in pair(np.random.default_rng(2), 2, 20))
    del second[1][Task("toy", "7", "test", 0)]
    found = difference(first, second)
    assert (found.tasks, gain(first, second).tasks) == (19, 19)
    for run in first + second:
        run.pop(Task("toy", "7", "test", 0), None)
    assert difference(first, second) == found


@pytest.mark.parametrize(("tasks", "mean"), [(0, None), (1, 1.0)])
def test_too_few_tasks_define_no_interval(tasks: int, mean: float | None) -> None:
    found = difference(runs(np.ones((2, tasks))), runs(np.zeros((2, tasks))))
    assert found == Contrast(tasks, {"mean": mean, "low": None, "high": None}, None, 0.0, 0.0, None, None)
    assert (found.holds, found.detectable) == (False, None)


def test_equal_configurations_differ_by_nothing_and_nothing_is_promised_to_be_detectable() -> None:
    same, zero = runs(np.ones((2, 9))), {"mean": 0.0, "low": 0.0, "high": 0.0}
    found = difference(same, same)
    assert (found.over_tasks, found.over_seeds, found.p, found.detectable) == (zero, zero, 1.0, None)


def test_what_rounding_leaves_is_no_difference() -> None:
    """Three runs whose mean is that of the other configuration, up to the last bit."""
    first, second = runs(np.array([[0.1] * 9, [0.2] * 9, [0.3] * 9])), runs(np.array([[0.2] * 9]))
    assert sum([0.1, 0.2, 0.3]) / 3 != 0.2
    assert difference(first, second).over_tasks == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_a_configuration_of_one_run_says_nothing_about_seeds() -> None:
    first, second = pair(np.random.default_rng(4), 3, 30, luck=1.0)
    found = difference(runs(first), runs(second[:1]))
    error = (first.mean(axis=0) - second[0]).std(ddof=1) / math.sqrt(30)
    assert found.over_seeds is None
    assert found.detectable == pytest.approx(detectable(error, 29))


def coverage(monkeypatch: pytest.MonkeyPatch, times: int, **configurations: Any) -> tuple[float, float]:
    """How often the interval over tasks, and the one over tasks and seeds, holds the truth: no difference."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)  # the ends of an interval jitter, and hold the truth as often
    rng, hits = np.random.default_rng(3), np.zeros(2)
    for _ in range(times):
        found = difference(*map(runs, pair(rng, **configurations)))
        hits += [inside(found.over_tasks), found.over_seeds is None or inside(found.over_seeds)]
    return float(hits[0] / times), float(hits[1] / times)


def inside(interval: Any) -> bool:
    return bool(interval["low"] <= 0 <= interval["high"])


def test_intervals_over_tasks_hold_the_truth_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    over_tasks, _ = coverage(monkeypatch, 600, seeds=1, tasks=64)
    assert over_tasks == pytest.approx(0.95, abs=0.025)  # three standard errors of a share of 600


@pytest.mark.parametrize("luck", [0.0, 0.15, 0.4])
def test_intervals_over_seeds_hold_the_truth_where_training_is_a_matter_of_luck(
    luck: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those over tasks do not, once seeds differ: they are about these very weights."""
    over_tasks, over_seeds = coverage(monkeypatch, 500, seeds=3, tasks=64, luck=luck)
    assert over_seeds >= 0.95
    assert (over_tasks < 0.9) == (luck > 0.1)


@pytest.mark.parametrize(("seeds", "luck"), [(2, 0.0), (2, 0.4), (3, 0.15), (3, 0.4)])
def test_intervals_of_main_effects_hold_the_truth_as_often_as_those_of_differences(
    seeds: int, luck: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factorial of two by two in which the other key matters, and the one that is asked about does not."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    rng, hits, times = np.random.default_rng(4), np.zeros(2), 500
    for _ in range(times):
        ease = rng.uniform(-2, 2, 64)
        one, other = ([runs(panels(rng, ease, seeds, luck=luck, lift=lift)) for lift in (0.0, 1.0)] for _ in range(2))
        found = effect(one, other)
        assert found.over_seeds is not None
        hits += [inside(found.over_tasks), inside(found.over_seeds)]
    over_tasks, over_seeds = hits / times
    assert over_seeds > 0.92
    assert (over_tasks < 0.9) == (luck > 0.1)


@pytest.mark.parametrize(("seeds", "luck"), [(1, 0.0), (4, 0.3)])
def test_what_is_called_detectable_is_found_four_times_in_five(seeds: int, luck: float) -> None:
    """Normal numbers, whose true standard error is known: the effect called detectable by it is found as often as said."""
    rng, tasks, times = np.random.default_rng(5), 40, 1500
    freedom = tasks - 1 if seeds == 1 else 2 * (seeds - 1)
    noise = 0.0 if luck else 1.0  # either tasks or seeds are drawn, so that the degrees of freedom are known too
    error = math.sqrt(2 * noise**2 / tasks + 2 * luck**2 / seeds)
    effect, found = detectable(error, freedom), 0
    for _ in range(times):
        configurations = [
            rng.normal(size=(seeds, 1)) * luck + noise * rng.normal(size=(seeds, tasks)) for _ in range(2)
        ]
        by_task = (configurations[0] + effect - configurations[1]).mean(axis=0)
        estimate, spread = contrasts._error(by_task, [configurations[0] + effect, -configurations[1]] if luck else ())
        found += abs(by_task.mean()) > stats.t.ppf(0.975, spread) * estimate
    assert found / times == pytest.approx(0.8, abs=0.04)


def test_more_tasks_and_more_seeds_detect_less() -> None:
    assert detectable(1.0, 1e9) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), rel=1e-6)
    assert detectable(1.0, 2) > detectable(1.0, 4) > detectable(1.0, 127) > detectable(0.5, 127)


# Many comparisons


def test_holm_is_what_its_definition_says() -> None:
    """By hand, and R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """A difference holds where every set of differences that it is in has one that Bonferroni's test finds (Marcus, Peritz and
    Gabriel, 1976)."""
    rng = np.random.default_rng(6)
    for _ in range(100):
        ps = (rng.random(4) ** 3).tolist()
        sets = [[i for i in range(4) if kept >> i & 1] for kept in range(1, 16)]
        closed = [max(min(1, len(of) * min(ps[j] for j in of)) for of in sets if i in of) for i in range(4)]
        assert holm(ps) == pytest.approx(closed)


def test_one_comparison_is_judged_by_its_intervals_and_p_is_where_they_reach_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrected verdict on one comparison is the uncorrected one: every interval there is excludes 0."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng, seen = np.random.default_rng(7), set()
    for number in range(80):
        first, second = (runs(table) for table in pair(rng, 1 + number % 3, 30, luck=0.2, lift=0.5))
        found = difference(first, second)
        apart = not inside(found.over_tasks) and not (found.over_seeds and inside(found.over_seeds))
        assert [apart] == [one.holds for one in corrected([found])]
        assert corrected([found]) == [found]
        assert (found.p or 0) < 0.05 if apart else (found.p or 0) >= 0.05
        seen.add(apart)
        with monkeypatch.context() as changed:
            changed.setattr(
                statistics, "CONFIDENCE", 1 - (found.p or 0) - 1e-6
            )  # an interval of that level just misses 0
            changed.setattr(contrasts, "CONFIDENCE", 1 - (found.p or 0) - 1e-6)
            again = difference(first, second)
        if (found.p or 0) > 2 / 400:
            assert not inside(again.over_tasks)
            assert again.over_seeds is None or not inside(again.over_seeds)
    assert seen == {True, False}


def test_a_family_is_judged_together_and_too_few_tasks_are_in_none() -> None:
    found = [difference(*map(runs, pair(np.random.default_rng(i), 2, 40, lift=0.3))) for i in range(4)]
    few = difference(runs(np.ones((2, 1))), runs(np.zeros((2, 1))))
    together = corrected([*found, few])
    assert [one.p_holm for one in together[:4]] == holm([one.p or 0 for one in found])
    assert [one.family for one in together] == [4, 4, 4, 4, 1]
    assert together[4] == few
    assert (together[0].detectable or 0) > (found[0].detectable or 0), "what has to pass a stricter level is seen less"


def five_arms(luck: float, tables: int, lift: float = 0.0) -> tuple[int, int]:
    """In how many tables of five arms (three seeds, 128 tasks, four samples) anybody is called higher, and how often it is the
    first, whose success is `lift` above. A run's success differs from its arm's by `luck`, a standard deviation."""
    rng, called, first = np.random.default_rng(11), 0, 0
    for _ in range(tables):
        ease = rng.uniform(-2.5, 2, 128)
        arms = []
        for arm in range(5):
            solved = 1 / (1 + np.exp(-ease - 0.5 * rng.normal(size=(3, 128))))
            solved = solved + luck * rng.normal(size=(3, 1)) + lift * (arm == 0)
            arms.append(runs(rng.binomial(4, solved.clip(0, 1)) / 4))
        pairs = list(combinations(range(5), 2))
        found = corrected([difference(arms[a], arms[b]) for a, b in pairs])
        ahead = [
            a if (one.over_tasks["mean"] or 0) > 0 else b for (a, b), one in zip(pairs, found, strict=True) if one.holds
        ]
        called, first = called + bool(ahead), first + (0 in ahead)
    return called, first


@pytest.mark.parametrize("luck", [0.0, 0.02, 0.04])
def test_of_five_equal_arms_at_most_one_table_in_twenty_calls_anybody_higher(
    luck: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    assert five_arms(luck, 100)[0] <= 5


def test_ten_points_are_found_in_most_tables_of_five_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    assert five_arms(0.02, 40, lift=0.1)[1] > 20

"""Means over tasks, and paired intervals whose behaviour can be checked by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from pilotrl.analysis.statistics import MEASURES, paired, paired_interval, panel_block, summarize
from pilotrl.types import Ending, Episode, Outcome, Task, Turn


def _turn(adherence: int | None) -> Turn:
    return Turn(("look",), "reply", "action", "page", valid=True, well_formed=True, score=0.0, adherence=adherence)


def _episode(
    task: int,
    outcome: Outcome = "failed",
    *,
    sample: int = 0,
    score: float = 0.0,
    verdicts: tuple[int | None, ...] = (),
    tokens: int = 0,
) -> Episode:
    turns = [_turn(verdict) for verdict in verdicts]
    world = Task("toy", str(task), "test", 0)
    by: Ending = "context" if outcome == "truncated" else "environment"
    return Episode(world, task, sample, "page", turns=turns, outcome=outcome, ended_by=by, score=score, tokens=tokens)


def test_summary_by_hand() -> None:
    episodes = [
        _episode(0, "solved", score=1.0, verdicts=(2, 1), tokens=7),
        _episode(0, "failed", sample=1, score=0.5, verdicts=(0, None), tokens=1),
        _episode(1, "truncated", score=0.25, verdicts=(None,)),
    ]
    summary = summarize(episodes)
    assert summary == {
        "success": pytest.approx(0.25),  # task 0: 1/2, task 1: 0
        "score": pytest.approx(0.5),  # 0.75 and 0.25
        "adherence": pytest.approx(0.375),  # task 0: mean of 0.75 and 0; task 1 has no verdict
        "plan_quality": None,
        "correctness": None,
        "turns": pytest.approx(1.5),
        "tokens": pytest.approx(2.0),  # (7 + 1) / 2 and 0
        "ended/environment": 0.5,
        "ended/turn_limit": 0.0,
        "ended/context": 0.5,
    }


def test_tasks_weigh_the_same_however_many_samples_they_have() -> None:
    episodes = [_episode(0, "solved", sample=sample) for sample in range(9)] + [_episode(1)]
    assert summarize(episodes)["success"] == pytest.approx(0.5)


def test_broken_episodes_are_left_out_and_not_zero() -> None:
    episodes = [_episode(0, "solved", score=1.0), _episode(0, "broken", sample=1), _episode(1, "broken")]
    assert summarize(episodes)["success"] == 1.0
    assert summarize(episodes)["score"] == 1.0
    assert summarize([_episode(0, "broken")]) == dict.fromkeys(MEASURES)
    assert summarize([]) == dict.fromkeys(MEASURES)


def test_pairs_are_made_by_task_and_not_by_position() -> None:
    before = [_episode(0, "solved"), _episode(1, "failed"), _episode(2, "failed"), _episode(3, "solved")]
    after = [_episode(4, "solved"), _episode(1, "solved"), _episode(2, "failed"), _episode(0, "failed")]
    assert paired(before, after)["success"]["mean"] == pytest.approx(0.0)  # of tasks 0, 1, 2 one was lost, one won


def test_equal_differences_give_an_interval_of_no_width() -> None:
    assert paired_interval([0.0] * 3, [0.1] * 3) == {"mean": 0.1, "low": 0.1, "high": 0.1}  # a plain sum is not .3
    assert paired_interval([0.5, 1.0], [0.5, 1.0]) == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_too_few_tasks_have_no_interval() -> None:
    assert paired_interval([], []) == {"mean": None, "low": None, "high": None}
    assert paired_interval([None, 0.0], [1.0, 0.25]) == {"mean": 0.25, "low": None, "high": None}
    with pytest.raises(ValueError, match="zip"):
        paired_interval([0.0], [0.0, 1.0])


def test_interval_agrees_with_the_normal_one_where_that_is_right() -> None:
    rng = random.Random(1)
    after = [rng.gauss(0.2, 1.0) for _ in range(400)]
    interval = paired_interval([0.0] * 400, after)
    mean = sum(after) / 400
    error = math.sqrt(sum((value - mean) ** 2 for value in after) / 400) / 20
    assert interval["mean"] == pytest.approx(mean)
    assert interval["low"] == pytest.approx(mean - 1.96 * error, abs=0.06 * error)
    assert interval["high"] == pytest.approx(mean + 1.96 * error, abs=0.06 * error)


def test_pairing_removes_what_tasks_differ_in() -> None:
    """Tasks from easy to hard, each a little better afterwards: no unpaired interval would see it."""
    rng = random.Random(2)
    before = [rng.random() for _ in range(50)]
    after = [value + rng.uniform(0.0, 0.02) for value in before]
    low, high = (paired_interval(before, after)[key] for key in ("low", "high"))
    assert low is not None
    assert high is not None
    assert 0.005 < low < 0.01 < high < 0.015


def test_same_input_same_interval() -> None:
    rng = random.Random(3)
    before, after = ([rng.random() for _ in range(30)] for _ in range(2))
    assert paired_interval(before, after) == paired_interval(before, after)


def test_panel_block_has_the_keys_of_the_summary() -> None:
    before = [_episode(task) for task in range(4)]
    after = [_episode(task, "solved") for task in range(4)]
    block = panel_block(before, after)
    assert set(block) == {"before", "after", "paired"}
    assert all(set(part) == set(MEASURES) for part in block.values() if isinstance(part, dict))
    greedy = panel_block(before, after, after, before)["greedy"]
    assert isinstance(greedy, dict)
    assert greedy["paired"]["success"]["mean"] == -1.0


def test_an_average_over_environments_weighs_each_alike_and_draws_tasks_within_each() -> None:
    def episodes(env: str, scores: list[float]) -> list[Episode]:
        return [
            Episode(Task(env, f"{env}/{i}", "test", 0), i, 0, "", outcome="failed", score=x)
            for i, x in enumerate(scores)
        ]

    before = [*episodes("a", [0.0] * 40), *episodes("b", [0.0] * 4)]
    after = [*episodes("a", [0.5] * 40), *episodes("b", [0.0, 0.25, 0.75, 1.0])]
    block: Any = panel_block(before, after, averages={"ID": ["a"], "Avg": ["a", "b"], "OOD": ["c"]})
    means = {name: of["after"]["score"] for name, of in block["averages"].items()}
    assert means == {"ID": 0.5, "Avg": 0.5, "OOD": None}
    assert block["averages"]["OOD"]["paired"]["score"] == {"mean": None, "low": None, "high": None}
    assert block["averages"]["ID"]["paired"] == block["by_env"]["a"]["paired"]
    own, average = block["by_env"]["b"]["paired"]["score"], block["averages"]["Avg"]["paired"]["score"]
    for end in ("low", "high"):  # a has no spread, and half the weight: half of b's is left
        assert average[end] - 0.5 == pytest.approx((own[end] - 0.5) / 2, abs=0.02)
    assert "by_env" not in panel_block(before, after)

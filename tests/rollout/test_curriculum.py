"""Curricula: how long episodes may be at a step, and which tasks it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pilotrl.rollout.curriculum import Pools, max_turns
from pilotrl.types import Episode, Task

TASKS = [f"t{i}" for i in range(10)]
RATES = {"t0": 1.0, "t1": 1.0, "t2": 1.0, "t3": 0.0, "t4": 0.0, "t5": 0.5, "t6": 0.25}


def test_the_horizon_grows_in_equal_parts_and_is_the_environments_own_in_the_last() -> None:
    assert [max_turns([5, 10], 7, step) for step in range(7)] == [5, 5, 5, 10, 10, None, None]
    assert [max_turns([], 3, step) for step in range(3)] == [None] * 3


def test_an_episode_ends_at_the_horizon_with_its_reward(training: Callable[..., Any]) -> None:
    source = training(tasks=2, group_size=2).source
    free = source.batch(1).episodes
    source.max_turns = lambda step: step
    short = source.batch(1).episodes
    assert max(len(episode.turns) for episode in free) > 1
    assert {len(episode.turns) for episode in short} == {1}
    for whole, cut in zip(free, short, strict=True):
        assert cut.turns == whole.turns[:1]
        if len(whole.turns) > 1:
            assert (cut.outcome, cut.ended_by) == ("truncated", "turn_limit")
        assert cut.reward is not None


def test_a_step_takes_its_shares_from_the_pools() -> None:
    pools = Pools(0.25, 0.25, dict(RATES))
    chosen = pools.draw(TASKS, 0, 3, 8)
    assert {*chosen[:2]} < {"t0", "t1", "t2"}
    assert {*chosen[2:4]} == {"t3", "t4"}
    assert {*chosen[4:7]} == {"t7", "t8", "t9"}  # never played: before those that were
    assert chosen[7] in ("t5", "t6")


@pytest.mark.parametrize("count", [1, 4, 8, 10, 25])
def test_every_step_is_full_and_repeats_no_task_while_there_are_others(count: int) -> None:
    for rates in ({}, RATES, dict.fromkeys(TASKS, 1.0)):
        chosen = Pools(0.1, 0.2, dict(rates)).draw(TASKS, 0, 3, count)
        assert len(chosen) == count
        assert len({*chosen}) == min(count, 10)


def test_a_draw_is_a_function_of_seed_step_and_rates() -> None:
    draws = [
        Pools(0.2, 0.2, dict(rates)).draw(TASKS, *when, 6) for rates in (RATES, {}) for when in ((0, 1), (0, 2), (1, 1))
    ]
    assert len({tuple(draw) for draw in draws}) == 6
    assert Pools(0.2, 0.2, dict(RATES)).draw(TASKS, 0, 1, 6) == draws[0]


def test_rates_are_those_of_the_last_group() -> None:
    def group(name: str, *outcomes: Any) -> list[Episode]:
        return [Episode(Task("toy", name, "train", 0), 0, i, "", outcome=end) for i, end in enumerate(outcomes)]

    pools = Pools(0.1, 0.1, {"a": 1.0, "d": 0.5})
    pools.note(
        [
            *group("a", "solved", "failed"),
            *group("b", "solved", "broken"),
            *group("c", "truncated"),
            *group("d", "broken"),
        ]
    )
    assert pools.rates == {"a": 0.5, "b": 1.0, "c": 0.0, "d": 0.5}
    assert pools.sizes() == {"pools/easy": 1, "pools/normal": 2, "pools/hard": 1}

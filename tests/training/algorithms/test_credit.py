"""Each credit by hand. Group's mean, judge and GAE have files of their own (test_grpo, test_ppo)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pilotrl.training.algorithms.credit import plan_segment
from tests.training.algorithms.records import built, played

NAN = math.nan


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_rloo_is_against_the_mean_of_the_others() -> None:
    rewards, group = numbers(1.0, 0.25, 0.25, NAN, 0.4, NAN), torch.tensor([3, 3, 3, 3, 1, 1])
    found = built("rloo").advantages(played(rewards, group, torch.arange(6))).advantages
    torch.testing.assert_close(found, numbers(0.75, -0.375, -0.375, 0.0, 0.0, 0.0))


def test_reinforce_pp_is_over_the_whole_step_and_counts_episodes_not_calls() -> None:
    rewards, group = numbers(1.0, 0.0, 0.5, NAN), torch.tensor([0, 0, 1, 1])
    episode = torch.tensor([0, 0, 0, 0, 1, 2, 3])
    found = built("reinforce_pp").advantages(played(rewards, group, episode)).advantages
    torch.testing.assert_close(found, numbers(1, 1, 1, 1, -1, 0, 0) * 0.5 / (0.5 + 1e-4))
    grouped = built("reinforce_pp", group_baseline=True).advantages(played(rewards, group, episode)).advantages
    torch.testing.assert_close(grouped, numbers(1, 1, 1, 1, -1, 0, 0) * 0.5 / (0.5 + 1e-4))
    other = numbers(1.0, 0.5, 0.5, 0.0)
    grouped = built("reinforce_pp", group_baseline=True).advantages(played(other, group, torch.arange(4))).advantages
    torch.testing.assert_close(grouped, numbers(0.25, -0.25, 0.25, -0.25) / (math.sqrt(0.5 / 3) + 1e-4))


def test_a_plan_is_worth_what_is_earned_beyond_episodes_without_one() -> None:
    """Three episodes with a plan, two without and one of these broken; and a group that plans throughout."""
    episode = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 6, 7, 7])
    told = played(
        numbers(1.0, 0.4, 0.1, 0.3, 0.1, NAN, 1.0, 0.0),
        torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]),
        episode,
        role=torch.tensor([0, 1, 0, 1, 0, 1, 1, 1, 1, 0, 1, 0, 1]),
    )
    credit = built("planner_gain").advantages(told)
    planners, with_plans = (0.8, 0.2, -0.1), (0.75, -0.15, -0.6)
    wanted = [one for pair in zip(planners, with_plans, strict=True) for one in pair] + [0.2, -0.2, 0.0, 0, 1, 0, -1]
    torch.testing.assert_close(credit.advantages, numbers(*wanted))
    assert credit.stats["planner_gain"] == pytest.approx(0.3)  # 0.5 with plans, 0.2 without


def gigpo(followed: tuple[bool, bool, bool] = (True, True, True), **options: float | bool) -> tuple[list[float], float]:
    """Two episodes of a group: at the first observation they part, under other plans; the second each saw alone."""
    algorithm = built("gigpo", scale_rewards=False, step_weight=2.0, gamma=0.5, **options)
    told = played(
        numbers(1.0, 0.0),
        torch.zeros(2).long(),
        torch.tensor([0, 0, 1]),
        observation=torch.tensor([7, 8, 7]),
        plan=torch.tensor([1, 1, 2]),
        followed=torch.tensor(followed),
    )
    credit = algorithm.advantages(told)
    return credit.advantages.tolist(), credit.stats["anchors_alone"]


def test_gigpo_compares_calls_that_saw_the_same() -> None:
    """Over episodes: +0.5, -0.5. At observation 7 the returns are 0.5 (the reward a turn later) and 0: +0.25, -0.25."""
    assert gigpo() == ([0.5 + 2 * 0.25, 0.5, -0.5 - 2 * 0.25], pytest.approx(1 / 3))


def test_gigpo_trusts_small_groups_less_and_may_ask_for_the_plan() -> None:
    assert gigpo(shrinkage=2.0)[0] == [0.5 + 0.25, 0.5, -0.5 - 0.25]  # two calls of 2 + 2
    assert gigpo(with_plan=True) == ([0.5, 0.5, -0.5], 1.0)
    assert gigpo((True, True, False))[0] == [0.5, 0.5, 0.0]  # nothing is compared with what was not followed


PLANNED = {
    "role": torch.tensor([0, 1, 0, 1, 0, 1, 0, 1]),
    "plan": torch.tensor([0, 1, 1, 1, 1, 2, 0, 1]),
    "values": numbers(0.5, 0.4, 0.3, 0.45, 0.6, 0.7, 0.2, 0.1),
}
"""An episode of three turns, of which the second keeps the plan and the third changes it; another of one turn, the same plan. A
planner's call has the plan that it was to rewrite."""
EPISODE = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])


def test_a_segment_is_the_calls_under_one_plan_from_the_call_that_wrote_it() -> None:
    told = played(numbers(1.0, 0.0), torch.zeros(2).long(), EPISODE, **PLANNED)
    assert plan_segment.begins(told).tolist() == [True, False, False, False, True, False, True, False]
    actions = torch.tensor([1, 3, 5, 7])
    alone = {name: values[actions] for name, values in PLANNED.items()}
    told = played(numbers(1.0, 0.0), torch.zeros(2).long(), EPISODE[actions], **alone)
    assert plan_segment.begins(told).tolist() == [True, False, True, True]


def test_plan_segments_by_hand() -> None:
    algorithm = built("plan_segment", gamma=0.9, gae_lambda=0.5)
    credit = algorithm.advantages(played(numbers(1.0, 0.0), torch.zeros(2).long(), EPISODE, **PLANNED))
    values = (0.5, 0.4, 0.3, 0.45, 0.6, 0.7)
    a, b, c, d, e, f = (0.9 * after - now for now, after in zip(values, (*values[1:], 1 / 0.9), strict=True))
    first = a + 0.9 * b + 0.9**2 * c + 0.9**3 * d + 0.9**4 * e + 0.9**5 * 0.5 * f
    within = [b + 0.45 * (c + 0.45 * (d + 0.45 * e)), c + 0.45 * (d + 0.45 * e), d + 0.45 * e]
    expected = numbers(first, *within, e + 0.9 * f, f, 0.9 * 0.1 - 0.2 + 0.9 * (0.0 - 0.1), 0.0 - 0.1)
    torch.testing.assert_close(credit.advantages, expected)
    assert credit.returns is not None
    torch.testing.assert_close(credit.returns, expected + PLANNED["values"])


def test_under_one_plan_actions_have_plain_gae_and_ends_are_its_own() -> None:
    torch.manual_seed(0)
    episode, values = torch.arange(6).repeat_interleave(5), torch.rand(30)
    rewards = torch.rand(6).double().masked_fill(torch.arange(6) == 2, NAN)
    told = played(rewards, torch.zeros(6).long(), episode, values=values, terminated=torch.rand(6) < 0.5)
    segments, plain = (built(name).advantages(told) for name in ("plan_segment", "ppo"))
    torch.testing.assert_close(segments.advantages, plain.advantages)
    assert segments.returns is not None
    torch.testing.assert_close(segments.returns, plain.returns, equal_nan=True)


def test_no_calls_are_legal() -> None:
    for name in ("plan_segment", "gigpo", "rloo", "reinforce_pp"):
        none = torch.zeros(0).long()
        told = played(numbers(0.5, 1.0), torch.zeros(2).long(), none, values=torch.empty(0))
        assert built(name).advantages(told).advantages.shape == (0,)

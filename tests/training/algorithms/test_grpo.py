"""GRPO by hand, and what has to hold whatever the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pilotrl.training.algorithms import grpo
from pilotrl.training.algorithms.grpo import Grpo
from tests.training.algorithms.records import played

NAN = math.nan


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_advantages_by_hand() -> None:
    rewards, group = numbers(1.0, 0.0, 0.5, 0.2, 0.6), torch.tensor([7, 7, 7, 3, 3])
    centred = grpo.advantages(rewards, group, scale=False)
    scaled = grpo.advantages(rewards, group, scale=True)
    torch.testing.assert_close(centred, numbers(0.5, -0.5, 0.0, -0.2, 0.2))
    std = math.sqrt(0.08)  # of 0.2 and 0.6: twice 0.04, over n - 1 = 1
    torch.testing.assert_close(scaled, numbers(0.5 / 0.5001, -0.5 / 0.5001, 0, -0.2 / (std + 1e-4), 0.2 / (std + 1e-4)))


def test_missing_rewards_are_left_out_of_the_baseline() -> None:
    group = torch.tensor([0, 0, 0])
    with_missing = grpo.advantages(numbers(1.0, NAN, 0.0), group, scale=True)
    without = grpo.advantages(numbers(1.0, 0.0), group[:2], scale=True)
    assert with_missing.tolist() == [without[0].item(), 0.0, without[1].item()]


@pytest.mark.parametrize("rewards", [(0.7, NAN), (NAN, NAN), (NAN,), (0.7,), ()])
def test_fewer_than_two_rewards_teach_nothing(rewards: tuple[float, ...]) -> None:
    group = torch.zeros(len(rewards), dtype=torch.long)
    for scale in (True, False):
        assert grpo.advantages(numbers(*rewards), group, scale).tolist() == [0.0] * len(rewards)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.integers(2, 9), st.booleans())
@settings(max_examples=50, deadline=None)
def test_equal_rewards_give_exactly_zero(terms: list[float], members: int, scale: bool) -> None:
    """Also where the same terms were added in another order, or in float32: rounding is no spread."""
    ways = [sum(terms), sum(reversed(terms)), float(numbers(*terms).float().sum())]
    rewards = numbers(*(ways[i % 3] / len(terms) for i in range(members)))
    assert not grpo.advantages(rewards, torch.zeros(members, dtype=torch.long), scale).any()


def test_the_classic_of_rounding_noise() -> None:
    assert 0.1 + 0.2 != 0.3
    assert grpo.advantages(numbers(0.1 + 0.2, 0.3), torch.tensor([0, 0]), True).tolist() == [0.0, 0.0]


def test_small_true_spread_is_kept() -> None:
    advantages = grpo.advantages(numbers(0.5, 0.501), torch.tensor([0, 0]), True)
    assert 0.5 < advantages[1].item() < 1.0


@given(st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_of_episodes_does_not_matter(random) -> None:  # type: ignore[no-untyped-def]
    rewards = numbers(*(random.choice([random.random(), 0.5, NAN]) for _ in range(12)))
    group = torch.tensor([random.randrange(4) for _ in range(12)])
    order = torch.tensor(random.sample(range(12), 12))
    plain, permuted = grpo.advantages(rewards, group, True), grpo.advantages(rewards[order], group[order], True)
    torch.testing.assert_close(permuted, plain[order], rtol=1e-12, atol=1e-12)


def test_groups_do_not_see_each_other() -> None:
    rewards, group = numbers(0.1, 0.9, 0.3, 0.4), torch.tensor([0, 0, 1, 1])
    before = grpo.advantages(rewards, group, True)[:2]
    rewards[2] = 1000.0
    assert torch.equal(grpo.advantages(rewards, group, True)[:2], before)


def test_dead_groups_tell_all_failed_from_all_the_same() -> None:
    rewards = numbers(0.2, 0.2, 1.0, 1.0, 0.2, 1.0, NAN, NAN, 0.2, NAN)
    success = torch.tensor([False, False, True, True, False, True, False, False, False, False])
    stats = grpo.group_stats(rewards, torch.arange(5).repeat_interleave(2), success)
    # Failed twice; solved twice; alive; broken twice; broken once.
    assert stats == {"frac_reward_zero_std": 4 / 5, "frac_groups_unscored": 2 / 5, "frac_groups_unsolved": 1 / 5}
    assert set(grpo.group_stats(rewards[:0], torch.arange(0), success[:0]).values()) == {0.0}


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),  # on policy: the plain policy gradient
        (1.1, 2.0, 2.2, 2.2),
        (1.5, 2.0, 2.6, 0.0),  # likelier and good: clipped at 1 + 0.3
        (0.5, 2.0, 1.0, 1.0),  # less likely though good: pulled back
        (0.5, -2.0, -1.6, 0.0),  # less likely and bad: clipped at 1 - 0.2
        (1.5, -2.0, -3.0, -3.0),  # likelier though bad: pulled back
        (5.0, -2.0, -6.0, 0.0),  # ... up to the dual clip at 3
        (5.0, 0.0, 0.0, 0.0),
    ],
)
def test_loss_of_one_token(ratio: float, advantage: float, gain: float, slope: float) -> None:
    old = numbers(-1.0)
    new = (old + math.log(ratio)).requires_grad_()
    loss, stats = grpo.loss(new, old, numbers(advantage), 4, clip_low=0.2, clip_high=0.3, dual_clip=3.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(-gain / 4)
    assert new.grad is not None
    assert new.grad.item() == pytest.approx(-slope / 4)
    assert stats["clip_ratio"].item() == (0.25 if slope == 0 and advantage else 0.0)
    assert stats["kl"].item() == pytest.approx((ratio - 1 - math.log(ratio)) / 4)
    assert not stats["kl"].requires_grad


def test_without_dual_clip_bad_tokens_are_unbounded() -> None:
    loss, _ = grpo.loss(numbers(math.log(5.0)), numbers(0.0), numbers(-2.0), 1, 0.2, 0.2, None)
    assert loss.item() == pytest.approx(10.0)


def test_zero_advantage_gives_exactly_zero_gradient() -> None:
    torch.manual_seed(0)
    new = torch.randn(8).requires_grad_()
    advantages = torch.tensor([1.0, 0.0] * 4)
    grpo.loss(new, torch.randn(8), advantages, 8, 0.2, 0.2, 3.0)[0].backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    assert not new.grad[1::2].any()
    assert new.grad[::2].any()


def test_kl_is_that_from_the_sampling_policy() -> None:
    """On tokens drawn from the old policy, the mean of the estimator is the divergence itself."""
    torch.manual_seed(0)
    old, new = torch.randn(2, 5, dtype=torch.float64).log_softmax(-1)
    exact = (old.exp() * (old - new)).sum().item()
    drawn = torch.multinomial(old.exp(), 200_000, replacement=True)
    _, stats = grpo.loss(new[drawn], old[drawn], torch.zeros(200_000), 200_000, 0.2, 0.2, None)
    assert stats["kl"].item() == pytest.approx(exact, rel=0.02)


def test_turns_are_compared_with_those_of_their_group_and_every_episode_weighs_alike() -> None:
    turns = numbers(1.0, 0.0, 0.0, 0.0, 1.0, 1.0, NAN, 0.5)
    episode = torch.tensor([0, 1, 1, 1, 2, 2, 2, 3])
    group = torch.tensor([7, 7, 9, 9])
    credit = grpo.process_advantages(turns, episode, group, scale=False)
    assert torch.allclose(credit, numbers(0.5, -0.5, -0.5, -0.5, 0.25, 0.25, 0.0, -0.25))
    scaled = grpo.process_advantages(turns, episode, group, scale=True)
    assert torch.allclose(scaled, credit / (torch.tensor([0.5] * 4 + [0.25] * 4) + grpo.EPSILON))


def test_turns_that_earned_the_same_teach_nothing() -> None:
    episode, group = torch.tensor([0, 0, 1]), torch.tensor([0, 0])
    for value in (0.0, 0.1 + 0.2, NAN):
        assert not grpo.process_advantages(numbers(value, value, value), episode, group, scale=True).any()


def test_plans_and_actions_are_compared_with_their_own_kind() -> None:
    """An episode of a good plan and a bad action beside one of the reverse: each call gets the credit of its own kind."""
    algorithm = Grpo(clip_low=0.2, clip_high=0.2, dual_clip=3.0, scale_rewards=False, turn_credit=1.0)
    episode, group = torch.tensor([0, 0, 1, 1]), torch.zeros(2).long()
    process_reward = torch.stack(
        [numbers(1.0, NAN, 0.5, NAN), numbers(NAN, 0.0, NAN, 0.1)]
    )  # actions are graded lower throughout
    credit = algorithm.advantages(played(numbers(0.5, 0.5), group, episode, process_rewards=process_reward))
    assert torch.allclose(credit.advantages, numbers(0.25, -0.05, -0.25, 0.05))


def test_a_candidate_that_was_not_followed_owes_nothing_to_the_episode() -> None:
    algorithm = Grpo(clip_low=0.2, clip_high=0.2, dual_clip=3.0, scale_rewards=False, turn_credit=1.0)
    episode, group = torch.tensor([0, 0, 1]), torch.zeros(2).long()
    followed = torch.tensor([True, False, True])
    for rewards in (numbers(0.0, 1.0), numbers(1.0, 0.0)):
        process_reward = torch.stack([numbers(0.5, 0.0, 0.25), numbers(NAN, NAN, NAN)])
        told = played(rewards, group, episode, followed=followed, process_rewards=process_reward)
        credit = algorithm.advantages(told).advantages
        assert torch.allclose(credit[1], numbers(-0.25))  # less the group's mean, in which each episode weighs the same
        assert torch.allclose(credit[[0, 2]], rewards - 0.5 + numbers(0.25, 0.0))

"""GAE and the value loss by hand, and GAE against Stable-Baselines3."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from pilotrl.training.algorithms import Credit, grpo
from pilotrl.training.algorithms.ppo import Ppo, gae, value_loss
from tests.training.algorithms.records import played, scored

NAN = math.nan
PPO = Ppo(clip_low=0.2, clip_high=0.2, dual_clip=3.0, gamma=0.9, gae_lambda=0.5, value_coef=0.5, value_lr=1e-3)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def credit(rewards: Tensor, terminated: list[bool], call_episode: list[int], values: Tensor) -> Credit:
    group, calls = torch.zeros(len(rewards), dtype=torch.long), torch.tensor(call_episode).long()
    return PPO.advantages(played(rewards, group, calls, terminated=torch.tensor(terminated), values=values))


def test_gae_by_hand() -> None:
    values, call_episode = numbers(0.5, 0.4, 0.2, 0.3), torch.tensor([0, 0, 1, 1])
    advantages, returns = gae(
        numbers(0, 1, 0, 0), values, numbers(9.0, 0.6), call_episode, torch.tensor([True, False]), 0.9, 0.5
    )
    solved = 1 - 0.4  # the bootstrap of a terminated episode is not read
    cut = 0.9 * 0.6 - 0.3
    expected = numbers(0.9 * 0.4 - 0.5 + 0.45 * solved, solved, 0.9 * 0.3 - 0.2 + 0.45 * cut, cut)
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, expected + values)


def test_the_turn_limit_pays_its_reward_and_a_full_context_bootstraps() -> None:
    """Two episodes of one call each: by hand, reward less value for the limit of turns, discounted value less value for a cut."""
    value = numbers(0.6, 0.6)
    limit = credit(numbers(0.0, 1.0), [True, True], [0, 1], value)
    torch.testing.assert_close(limit.advantages, numbers(-0.6, 0.4))
    cut = credit(numbers(0.0, 1.0), [False, False], [0, 1], value)
    torch.testing.assert_close(cut.advantages, numbers(0.9 * 0.6 - 0.6, 0.9 * 0.6 - 0.6))


def stable_baselines(rewards: Tensor, values: Tensor, bootstrap: float, terminated: bool) -> tuple[Tensor, Tensor]:
    """Their buffer on one episode, with gamma 0.97 and lambda 0.9."""
    box = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(len(values), box, box, device="cpu", gae_lambda=0.9, gamma=0.97, n_envs=1)
    buffer.rewards[:, 0], buffer.values[:, 0], buffer.episode_starts[0] = rewards.numpy(), values.numpy(), 1
    buffer.compute_returns_and_advantage(torch.tensor([bootstrap]), np.array([terminated]))
    return torch.from_numpy(buffer.advantages[:, 0]).double(), torch.from_numpy(buffer.returns[:, 0]).double()


def test_gae_equals_stable_baselines() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 12, (40,))
    call_episode = torch.arange(40).repeat_interleave(lengths)
    rewards, values = torch.randn(2, len(call_episode), dtype=torch.float64)
    bootstrap, terminated = torch.randn(40, dtype=torch.float64), torch.rand(40) < 0.5
    ours = gae(rewards, values, bootstrap, call_episode, terminated, 0.97, 0.9)
    episodes = zip(rewards.split(lengths.tolist()), values.split(lengths.tolist()), bootstrap, terminated, strict=True)
    theirs = [stable_baselines(r, v, b.item(), bool(t)) for r, v, b, t in episodes]
    for mine, other in zip(ours, zip(*theirs, strict=True), strict=True):
        torch.testing.assert_close(mine, torch.cat(other), rtol=1e-5, atol=1e-5)


def test_reward_arrives_at_the_last_call() -> None:
    result = credit(numbers(0.8, 0.3), [True, True], [0, 0, 1], numbers(0.5, 0.4, 0.1))
    torch.testing.assert_close(result.advantages, numbers(0.9 * 0.4 - 0.5 + 0.45 * 0.4, 0.4, 0.2))
    torch.testing.assert_close(result.returns[1:], numbers(0.8, 0.3))
    assert result.stats == {}


def test_value_bootstraps_over_a_budget_cut() -> None:
    """The reward of what was played is not added: it is about the whole episode, and so is the value."""
    result = credit(numbers(0.6), [False], [0, 0], numbers(0.5, 0.4))
    torch.testing.assert_close(result.returns[1], numbers(0.9 * 0.4)[0])
    torch.testing.assert_close(result.advantages[1], numbers(0.9 * 0.4 - 0.4)[0])


def test_episodes_do_not_see_each_other() -> None:
    values = numbers(0.5, 0.4, 0.1, 0.7)
    before = credit(numbers(0.8, 0.3), [True, False], [0, 0, 1, 1], values)
    values[2:] = 100.0
    after = credit(numbers(0.8, 0.1), [True, True], [0, 0, 1, 1], values)
    assert torch.equal(before.advantages[:2], after.advantages[:2])


@pytest.mark.parametrize("terminated", [True, False])
def test_a_missing_reward_teaches_neither_policy_nor_value(terminated: bool) -> None:
    result = credit(numbers(NAN, 0.3), [terminated, True], [0, 0, 1], numbers(0.5, 0.4, 0.1))
    assert result.advantages[:2].tolist() == [0.0, 0.0]
    values = torch.tensor([0.5, 0.4, 0.1], requires_grad=True)
    loss = value_loss(values, result.returns, 1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0.04)
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, 0.0, -0.4])


@pytest.mark.parametrize("call_episode", [[], [0], [1], [2], [0, 2]])
def test_episodes_without_calls_are_legal(call_episode: list[int]) -> None:
    result = credit(numbers(0.1, 0.2, 0.3), [True] * 3, call_episode, torch.zeros(len(call_episode)))
    assert result.returns is not None
    assert result.returns.tolist() == [(0.1, 0.2, 0.3)[episode] for episode in call_episode]


def test_loss_is_policy_and_value_part_each_over_its_own_count() -> None:
    new, old, advantages = torch.tensor([-1.0, -0.5]), torch.tensor([-1.1, -0.9]), torch.tensor([1.0, -2.0])
    values, returns = torch.tensor([0.1, 0.5, 0.3]), torch.tensor([0.4, NAN, 0.3])
    loss = PPO.loss(scored(new, old, advantages, values=values, returns=returns, tokens=10, targets=4))
    policy, policy_stats = grpo.loss(new, old, advantages, 10, 0.2, 0.2, 3.0)
    assert loss.value.item() == pytest.approx(policy.item() + 0.5 * 0.09 / 4)
    assert loss.stats["value_loss"].item() == pytest.approx(0.09 / 4)
    assert loss.stats["kl"] == policy_stats["kl"]

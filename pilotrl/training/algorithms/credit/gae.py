"""GAE: a call is as good as what followed was better than the value head expected (arXiv 1506.02438, as in PPO, 1707.06347).

Advantage: over the calls of an episode, the sum of the surprises reward + gamma V(next) - V from here to its end, each call ahead
weighted with gamma lambda once more. The episode's one reward arrives at its last call.
Beside any loss: value_coef times the mean over calls of (V - return) squared; return = advantage + V.
Ends: the limit of turns is part of the task, and an episode that comes to it has its reward, as one that the environment
ends otherwise. A context without room is a limit of ours: an episode that it cut has not come to its reward yet; the value
at its last call stands in for it, discounted once. Adding the reward of the part that was played would pay twice (the reward
is about a whole episode): being cut would be worth reward / (1 - gamma). With gamma = 1 dithering until the cut costs
nothing: keep it below.
Left out: clipping of the value loss; normalizing advantages over a minibatch (Adam hardly minds their scale, and the
gradient would depend on how episodes are divided among minibatches and ranks).
Degenerate cases: the return of one call is the reward; a missing reward gives advantage 0 and no value loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Credit, Loss, Played, Scored, check_ranges


def gae(
    rewards: Tensor,
    values: Tensor,
    bootstrap: Tensor,
    call_episode: Tensor,
    terminated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, [C] float64 each.

    Args:
        rewards: [C] that followed each call.
        values: [C] before each call.
        bootstrap: [E] after the last call; not read where the environment ended the episode.
        call_episode: [C] episode of each call, never decreasing, within an episode in order of time.
        terminated: [E] bool.
    """
    ahead = torch.where(terminated, 0.0, bootstrap.double()).tolist()
    reward, value, episode = rewards.double().tolist(), values.double().tolist(), call_episode.tolist()
    result = [0.0] * len(value)
    for i in reversed(range(len(value))):
        last = i + 1 == len(value) or episode[i + 1] != episode[i]
        result[i] = reward[i] + gamma * (ahead[episode[i]] if last else value[i + 1]) - value[i]
        if not last:
            result[i] += gamma * gae_lambda * result[i + 1]
    advantages = torch.tensor(result, dtype=torch.float64, device=values.device)
    return advantages, advantages + values.double()


def arrivals(played: Played) -> tuple[Tensor, Tensor]:
    """The reward that arrived at each call [C]; what stands in for one that did not, after an episode's last call [E]."""
    rewards, values, episode = played.rewards, played.values, played.episode
    last = torch.searchsorted(episode, torch.arange(len(rewards), device=values.device), right=True) - 1
    ends = last[episode] == torch.arange(len(values), device=values.device)
    arrived = torch.where(ends & played.terminated[episode], rewards[episode], 0.0)
    return arrived, values[last] if len(values) else values.new_zeros(len(rewards))


def credit(played: Played, advantages: Tensor, returns: Tensor) -> Credit:
    """Advantages and returns, but for episodes whose reward is missing."""
    missing = played.rewards[played.episode].isnan()
    return Credit(advantages.masked_fill(missing, 0.0), returns.masked_fill(missing, torch.nan))


def value_loss(values: Tensor, returns: Tensor, calls: float) -> Tensor:
    """Squared error over M calls, NaN returns left out, divided by `calls` (of the whole minibatch)."""
    known = ~returns.isnan()
    return (values[known] - returns[known].to(values)).square().sum() / max(calls, 1)


@dataclass(frozen=True)
class Gae(Algorithm):
    """The functions above, with their options."""

    gamma: float
    """Discount from call to call."""
    gae_lambda: float
    """Decay of generalized advantage estimation."""
    value_coef: float
    """Weight of the value loss."""
    value_lr: float
    """Learning rate of the value head."""
    critic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ranges(self, gamma=(0, 1), gae_lambda=(0, 1), value_coef=(0, 1000), value_lr=(0, 10))
        super().__post_init__()

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        arrived, bootstrap = arrivals(played)
        given = arrived, played.values, bootstrap, played.episode, played.terminated
        return credit(played, *gae(*given, self.gamma, self.gae_lambda))

    def loss(self, scored: Scored) -> Loss:
        """What the chosen loss is, and the value head's beside it."""
        policy = super().loss(scored)  # type: ignore[safe-super]
        value = value_loss(scored.values, scored.returns, scored.targets)
        stats = {**policy.stats, "value_loss": value.detach()}
        return replace(policy, value=policy.value + self.value_coef * value, stats=stats)

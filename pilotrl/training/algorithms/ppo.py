"""PPO: a call is as good as what followed was better than the value head expected (arXiv 1707.06347).

Advantage: generalized advantage estimation over the calls of an episode (arXiv 1506.02438): the sum of the surprises
reward + gamma V(next) - V from here to its end, each call ahead weighted with gamma lambda once more. The episode's one
reward arrives at its last call.
Loss: grpo's policy loss, plus value_coef times the mean over calls of (V - return) squared; return = advantage + V.
Budget cuts: a cut episode has not come to its reward yet; the value at its last call stands in for it, discounted once.
Adding the reward of the part that was played would pay twice (the reward is about a whole episode): being cut would be
worth reward / (1 - gamma). With gamma = 1 dithering until the cut costs nothing: keep it below.
Left out: clipping of the value loss; normalizing advantages over a minibatch (Adam hardly minds their scale, and the
gradient would depend on how episodes are divided among minibatches and ranks).
Degenerate cases: the return of one call is the reward; a missing reward gives advantage 0 and no value loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training.algorithms import Credit, grpo


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
        bootstrap: [E] after the last call; not read where the task itself ended.
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


def value_loss(values: Tensor, returns: Tensor, calls: float) -> Tensor:
    """Squared error over M calls, NaN returns left out, divided by `calls` (of the whole minibatch, all ranks)."""
    known = ~returns.isnan()
    return (values[known] - returns[known].to(values)).square().sum() / max(calls, 1)


@dataclass(frozen=True)
class Ppo:
    """The functions above, with their options, as an `Algorithm`."""

    clip_low: float
    clip_high: float
    dual_clip: float | None
    gamma: float
    gae_lambda: float
    value_coef: float
    value_lr: float
    """Of the value head; whoever builds the optimizer reads it."""
    critic: ClassVar[bool] = True

    def advantages(
        self,
        rewards: Tensor,
        process_rewards: Tensor,
        group: Tensor,
        success: Tensor,
        terminated: Tensor,
        call_episode: Tensor,
        followed: Tensor,
        values: Tensor,
    ) -> Credit:
        """See `Algorithm`."""
        last = torch.searchsorted(call_episode, torch.arange(len(rewards), device=values.device), right=True) - 1
        ends = last[call_episode] == torch.arange(len(values), device=values.device)
        arrived = torch.where(ends & terminated[call_episode], rewards[call_episode], 0.0)
        bootstrap = values[last] if len(values) else values.new_zeros(len(rewards))
        missing = rewards[call_episode].isnan()
        advantages, returns = gae(arrived, values, bootstrap, call_episode, terminated, self.gamma, self.gae_lambda)
        return Credit(advantages.masked_fill(missing, 0.0), returns.masked_fill(missing, torch.nan), {})

    def loss(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        values: Tensor,
        returns: Tensor,
        tokens: float,
        calls: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm`."""
        policy, stats = grpo.loss(
            logprobs, old_logprobs, advantages, tokens, self.clip_low, self.clip_high, self.dual_clip
        )
        value = value_loss(values, returns, calls)
        return policy + self.value_coef * value, {**stats, "value_loss": value.detach()}

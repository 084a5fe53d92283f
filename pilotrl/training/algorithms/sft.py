"""SFT: make the demonstrated tokens likely. Cross entropy, the mean over all trained tokens of the minibatch.

It is the policy gradient with advantage 1 everywhere (less for the world's words, where a stage learns those too).
Rewards are not read: which demonstrations are worth learning from is decided where they are played.
Degenerate case: a micro-batch without trained tokens has loss 0 and gradient 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training.algorithms import Credit


def loss(logprobs: Tensor, advantages: Tensor, tokens: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the sum of advantages [N] times logprobs [N], over `tokens` (of the whole minibatch, all ranks); no stats."""
    return -(advantages.to(logprobs) * logprobs).sum() / max(tokens, 1), {}


@dataclass(frozen=True)
class Sft:
    """The function above as an `Algorithm`; it has no options."""

    critic: ClassVar[bool] = False

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
        """See `Algorithm`; 1 for every call, whatever the rewards."""
        ones = torch.ones(len(call_episode), dtype=torch.float64, device=call_episode.device)
        return Credit(ones, torch.full_like(ones, torch.nan), {})

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
        return loss(logprobs, advantages, tokens)

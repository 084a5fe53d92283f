"""SFT: make the demonstrated tokens likely. Cross entropy, the mean over all trained tokens of the minibatch.

It is the policy gradient with advantage 1 everywhere (less for the environment's words, where a stage learns those too).
Rewards are not read: which demonstrations are worth learning from is decided where they are played.
Degenerate case: a micro-batch without trained tokens has loss 0 and gradient 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Credit, Loss, Played, Scored


def loss(logprobs: Tensor, advantages: Tensor, tokens: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the sum of advantages [N] times logprobs [N], over `tokens` (of the whole minibatch); no stats."""
    return -(advantages.to(logprobs) * logprobs).sum() / max(tokens, 1), {}


@dataclass(frozen=True)
class Sft(Algorithm):
    """The function above; it has no options."""

    demonstrations: ClassVar[bool] = True

    def advantages(self, played: Played) -> Credit:
        """1 for every call, whatever the rewards."""
        return Credit(torch.ones(len(played.episode), dtype=torch.float64, device=played.episode.device))

    def loss(self, scored: Scored) -> Loss:
        """See the head of this file."""
        return Loss(*loss(scored.logprobs, scored.advantages, scored.tokens))

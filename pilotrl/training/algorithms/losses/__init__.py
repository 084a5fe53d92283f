"""Losses: what the policy does with advantages. A class here has `loss`; a credit of `credit/` makes it an algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pilotrl.training import mismatch
from pilotrl.training.algorithms import Algorithm, Scored


@dataclass(frozen=True)
class RatioLoss(Algorithm):
    """A loss that takes the ratio of a token's probability now to that when it was sampled."""

    correction: str = field(default="none", kw_only=True)  # runs of before have no such key
    """For an engine that is not the learner: none, tis or sequence_mask (`training/mismatch.py`)."""

    def __post_init__(self) -> None:
        mismatch.check(self.correction)
        super().__post_init__()


def over_calls(values: Tensor, scored: Scored) -> Tensor:
    """[M] means of [N] values over the tokens of each call."""
    total, count = (torch.zeros(len(scored.call)).to(values) for _ in range(2))
    total = total.index_add(0, scored.token_call, values)
    return total / count.index_add(0, scored.token_call, torch.ones_like(values)).clamp(min=1)


def drift(scored: Scored) -> Tensor:
    """KL from the policy that sampled to the present one, this micro-batch's part of the mean over tokens: estimator k3,
    ratio - 1 - log ratio, unbiased on the former's samples and never negative."""
    log_ratio = (scored.logprobs - scored.old_logprobs).detach()
    return (log_ratio.expm1() - log_ratio).sum() / max(scored.tokens, 1)

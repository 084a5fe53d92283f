"""Losses: what the policy does with advantages. A class here has `loss`; a credit of `credit/` makes it an algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pilotrl.models.kl import k3
from pilotrl.training import mismatch
from pilotrl.training.algorithms import Algorithm, Loss, Scored, check_ranges


@dataclass(frozen=True)
class RatioLoss(Algorithm):
    """A loss that takes the ratio of a token's probability now to that when it was sampled."""

    correction: str = field(default="none", kw_only=True)  # runs of before have no such key
    """For an engine that is not the learner: none, tis or sequence_mask (`training/mismatch.py`)."""

    def __post_init__(self) -> None:
        mismatch.check(self.correction)
        super().__post_init__()

    def weights(self, scored: Scored) -> Tensor:
        """[N] of each token in what is averaged; here a mean over tokens."""
        return torch.full_like(scored.old_logprobs, 1 / max(scored.tokens, 1))


@dataclass(frozen=True)
class Regularized(RatioLoss):
    """A part between a credit and a loss, which adds what does not depend on rewards: the KL to a reference model (GRPO, arXiv
    2402.03300), averaged as the loss is, and an entropy bonus, a mean over tokens (TRL does both likewise).

    The KL is estimated as k3, ref / now - 1 - log(ref / now), times the ratio: so its gradient is unbiased too, that of
    KL(now || reference), also after the first update of a step (DeepSeek-V3.2, arXiv 2512.02556)."""

    beta: float = field(default=0.0, kw_only=True)  # runs of before have neither key
    """Weight of the KL from the present policy to the weights under the adapters."""
    entropy_coef: float = field(default=0.0, kw_only=True)
    """Weight of the entropy that is added to what is gained."""

    def __post_init__(self) -> None:
        check_ranges(self, beta=(0, 1000), entropy_coef=(0, 1000))
        super().__post_init__()

    def loss(self, scored: Scored) -> Loss:
        """What the chosen loss is, and these terms beside it, as far as their weights are above 0."""
        policy = super().loss(scored)  # type: ignore[safe-super]
        return self.regularized(policy, scored) if self.beta or self.entropy_coef else policy

    def regularized(self, policy: Loss, scored: Scored) -> Loss:
        """A loss and these terms."""
        value, stats, tokens = policy.value, dict(policy.stats), max(scored.tokens, 1)
        if self.beta:
            further = scored.reference - scored.logprobs
            kl = (scored.logprobs - scored.old_logprobs).exp() * k3(further)
            value = value + self.beta * (self.weights(scored) * kl).sum()
            stats["ref_kl"] = kl.detach().sum() / tokens
        if self.entropy_coef:
            value = value - self.entropy_coef * scored.entropy.sum() / tokens
        return Loss(value, stats)


def over_calls(values: Tensor, scored: Scored) -> Tensor:
    """[M] means of [N] values over the tokens of each call."""
    total, count = (torch.zeros(len(scored.call)).to(values) for _ in range(2))
    total = total.index_add(0, scored.token_call, values)
    return total / count.index_add(0, scored.token_call, torch.ones_like(values)).clamp(min=1)


def by_call(scored: Scored) -> Tensor:
    """[N] weights of tokens in a mean over calls of means over their tokens."""
    length = torch.bincount(scored.token_call, minlength=len(scored.call))[scored.token_call]
    return 1 / (length * max(scored.calls, 1))


def drift(scored: Scored) -> Tensor:
    """KL from the policy that sampled to the present one, this micro-batch's part of the mean over tokens."""
    return k3((scored.logprobs - scored.old_logprobs).detach()).sum() / max(scored.tokens, 1)

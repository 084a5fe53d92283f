"""Clipped ratio: a token moves until its probability has changed by a share (PPO, arXiv 1707.06347).

Loss: minus the mean over all trained tokens of the minibatch (DAPO, arXiv 2503.14476) of min(ratio A, clipped ratio A),
and where A is negative never below dual_clip A (arXiv 1912.09729); ratio is the token's probability now over that when
it was sampled. Left out: nothing.
Degenerate case: on the weights that sampled every ratio is 1, and the gradient is the policy gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from pilotrl.models.kl import k3
from pilotrl.training.algorithms import Loss, Scored, check_ranges
from pilotrl.training.algorithms.losses import RatioLoss


def loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    tokens: float,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy loss of N tokens, summed and divided by `tokens` (those of the whole minibatch).
    The stats are divided by it too: `clip_ratio`, the tokens whose gradient a clip cut, and `kl`, from the policy that
    sampled to the present one (estimator k3, ratio - 1 - log ratio: unbiased on the former's samples, never negative)."""
    advantages, tokens = advantages.to(logprobs), max(tokens, 1)
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    gain = torch.minimum(unclipped, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        gain = torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain)
    stats = {"clip_ratio": (gain != unclipped).sum() / tokens, "kl": k3(log_ratio.detach()).sum() / tokens}
    return -gain.sum() / tokens, stats


@dataclass(frozen=True)
class Clip(RatioLoss):
    """The function above, with its options."""

    clip_low: float
    """The ratio is clipped at 1 - clip_low ..."""
    clip_high: float
    """... and at 1 + clip_high."""
    dual_clip: float | None
    """Bound on ratio * |advantage| where the advantage is negative (arXiv 1912.09729); null: none."""

    def __post_init__(self) -> None:
        check_ranges(self, clip_low=(0, 1), clip_high=(0, inf), dual_clip=(1, inf))
        super().__post_init__()

    def loss(self, scored: Scored) -> Loss:
        """See the head of this file."""
        given = scored.logprobs, scored.old_logprobs, scored.advantages, scored.tokens
        return Loss(*loss(*given, self.clip_low, self.clip_high, self.dual_clip))

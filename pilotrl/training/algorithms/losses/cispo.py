"""CISPO: the ratio only weighs a token's gradient, and only that weight is clipped (MiniMax-M1, arXiv 2506.13585).

Loss: minus the mean over all trained tokens of the minibatch of min(ratio, 1 + clip_high) A logprob, without gradient through the
ratio. No token loses its gradient altogether, as those beyond a clip of `clip` do.
Left out: a lower bound on the weight, which the paper has and does not use.
Degenerate case: on the weights that sampled it is `reinforce`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from pilotrl.training.algorithms import Loss, Scored, check_ranges
from pilotrl.training.algorithms.losses import RatioLoss, drift


@dataclass(frozen=True)
class Cispo(RatioLoss):
    """`train/clip_ratio` counts the tokens whose weight was cut."""

    clip_high: float
    """A token weighs at most 1 + clip_high."""

    def __post_init__(self) -> None:
        check_ranges(self, clip_high=(0, inf))
        super().__post_init__()

    def loss(self, scored: Scored) -> Loss:
        """See the head of this file."""
        tokens, most = max(scored.tokens, 1), 1 + self.clip_high
        ratio = (scored.logprobs - scored.old_logprobs).exp().detach()
        gain = ratio.clamp(max=most) * scored.advantages.to(ratio) * scored.logprobs
        clipped = ((ratio > most) & (scored.advantages.to(ratio) != 0)).sum() / tokens
        return Loss(-gain.sum() / tokens, {"clip_ratio": clipped, "kl": drift(scored)})

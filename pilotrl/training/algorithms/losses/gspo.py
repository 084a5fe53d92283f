"""GSPO: the clipped ratio is that of a whole reply, not of a token (arXiv 2507.18071).

Loss: minus the mean over replies (calls) of min(s A, clipped s A), where s is the geometric mean of the reply's token ratios, and
A the mean of its tokens' advantages, which are equal.
Left out: the token-wise variant (GSPO-token); one ratio for all calls of an episode.
Degenerate case: a reply of one token has the ratio of that token.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from pilotrl.training.algorithms import Loss, Scored, check_ranges
from pilotrl.training.algorithms.losses import RatioLoss, by_call, drift, over_calls


@dataclass(frozen=True)
class Gspo(RatioLoss):
    """`train/clip_ratio` counts the tokens of replies that were clipped."""

    clip_low: float
    """The ratio is clipped at 1 - clip_low ..."""
    clip_high: float
    """... and at 1 + clip_high. Ratios of whole replies are nearer to 1 than those of tokens: 3e-4 and 4e-4 in the paper."""

    def __post_init__(self) -> None:
        check_ranges(self, clip_low=(0, 1), clip_high=(0, inf))
        super().__post_init__()

    def loss(self, scored: Scored) -> Loss:
        """See the head of this file."""
        ratio = over_calls(scored.logprobs - scored.old_logprobs, scored).exp()
        advantages = over_calls(scored.advantages.to(ratio), scored)
        unclipped = ratio * advantages
        gain = torch.minimum(unclipped, ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * advantages)
        clipped = (gain != unclipped)[scored.token_call].sum() / max(scored.tokens, 1)
        return Loss(-gain.sum() / max(scored.calls, 1), {"clip_ratio": clipped, "kl": drift(scored)})

    def weights(self, scored: Scored) -> Tensor:
        """[N], see there."""
        return by_call(scored)

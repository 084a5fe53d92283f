"""GSPO: the clipped ratio is that of a whole reply, not of a token (arXiv 2507.18071).

Advantage: that of GRPO, the reward less the mean of its group; `scale_rewards` divides by the group's standard deviation.
Loss: minus the mean over replies (calls) of min(s A, clip(s) A), where s is the geometric mean of the reply's token ratios.
Left out: the token-wise variant (GSPO-token); credit by turn.
Degenerate case: a reply of one token has the ratio of that token; a group without spread has advantages of exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Credit, Loss, Played, Scored, check_ranges, grpo


def mean_by_call(values: Tensor, scored: Scored) -> Tensor:
    """[M] means of [N] values over the tokens of each call."""
    total, count = (torch.zeros(len(scored.call)).to(values) for _ in range(2))
    total = total.index_add(0, scored.token_call, values)
    return total / count.index_add(0, scored.token_call, torch.ones_like(values)).clamp(min=1)


@dataclass(frozen=True)
class Gspo(Algorithm):
    clip_low: float
    """The ratio is clipped at 1 - clip_low ..."""
    clip_high: float
    """... and at 1 + clip_high. Ratios of whole replies are nearer to 1 than those of tokens: 3e-4 and 4e-4 in the paper."""
    scale_rewards: bool
    """Divide group advantages by the group's standard deviation."""
    smallest_group: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_ranges(self, clip_low=(0, 1), clip_high=(0, float("inf")))

    def advantages(self, played: Played) -> Credit:
        credit = grpo.advantages(played.rewards, played.group, self.scale_rewards)[played.episode] * played.followed
        return Credit(credit, stats=grpo.group_stats(played.rewards, played.group, played.success))

    def loss(self, scored: Scored) -> Loss:
        ratio = mean_by_call(scored.logprobs - scored.old_logprobs, scored).exp()
        advantages = mean_by_call(scored.advantages.to(ratio), scored)  # equal for all tokens of a call
        unclipped = ratio * advantages
        gain = torch.minimum(unclipped, ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * advantages)
        calls = max(scored.calls, 1)
        return Loss(-gain.sum() / calls, {"clip_ratio": (gain != unclipped).sum() / calls})

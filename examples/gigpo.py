"""GiGPO: groups in groups. Beside its episode's, a call has an advantage among calls that saw the same (arXiv 2505.10978).

Advantage: that of GRPO over whole episodes, plus `step_weight` times that of the call's discounted return within its anchor
group: calls of one role, in episodes of one group, whose last observation is the same text.
The return of a call is the episode's reward, discounted by `gamma` for every turn that was still to come.
Loss: grpo's clipped policy loss.
Left out: rewards of single turns (`played.step_rewards` has the environment's); similarity in place of equality.
Degenerate case: a call that is alone in its anchor group has the episode's advantage only; `train/anchors_alone` is the share of
such calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Credit, Loss, Played, Scored, check_ranges, grpo


def anchors(played: Played) -> Tensor:
    """[C] integer, equal for calls of one group and role that saw the same last observation."""
    keys = torch.stack([played.group[played.episode], played.role, played.observation], dim=1)
    return torch.unique(keys, dim=0, return_inverse=True)[1] if len(keys) else played.episode


def returns(played: Played, gamma: float) -> Tensor:
    """[C] float64, the episode's reward, discounted by the turns from each call to the last; NaN where there is none."""
    last = torch.searchsorted(played.episode, played.episode, right=True) - 1  # calls are in order of episode and time
    return played.rewards[played.episode] * gamma ** (played.turn[last] - played.turn)


@dataclass(frozen=True)
class Gigpo(Algorithm):
    clip_low: float
    clip_high: float
    scale_rewards: bool
    """Divide advantages of both levels by the standard deviation of their group."""
    step_weight: float
    """Of the advantage within the anchor group; 0: GRPO."""
    gamma: float
    """Discount from turn to turn."""
    smallest_group: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_ranges(self, clip_low=(0, 1), clip_high=(0, float("inf")), gamma=(0, 1), step_weight=(0, 1000))

    def advantages(self, played: Played) -> Credit:
        anchor = anchors(played)
        episode = grpo.advantages(played.rewards, played.group, self.scale_rewards)[played.episode]
        step = grpo.advantages(returns(played, self.gamma), anchor, self.scale_rewards)
        stats = grpo.group_stats(played.rewards, played.group, played.success)
        alone = torch.bincount(anchor)[anchor] == 1 if len(anchor) else torch.zeros(0)
        stats["anchors_alone"] = float(alone.double().mean()) if len(alone) else 0.0
        return Credit((episode + self.step_weight * step) * played.followed, stats=stats)

    def loss(self, scored: Scored) -> Loss:
        given = scored.logprobs, scored.old_logprobs, scored.advantages, scored.tokens
        return Loss(*grpo.loss(*given, self.clip_low, self.clip_high, None))

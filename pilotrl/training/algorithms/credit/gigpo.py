"""GiGPO: groups in groups. Beside its episode's, a call has an advantage among calls that saw the same (arXiv 2505.10978).

Advantage: that of `group` over whole episodes, plus `step_weight` times that of the call's discounted return within its anchor
group: calls of one role, in episodes of one group, whose last observation is the same text. The return of a call is the
episode's reward, discounted by `gamma` for every turn that was still to come.
Two answers to its critics: `with_plan` asks for the same plan too, since what a call saw last is not all that it knew (HGPO,
arXiv 2602.22817); `shrinkage` k multiplies the advantage within an anchor group of n calls by n / (n + k), since the mean of few
is no baseline to trust (ECPO, 2606.05885).
Left out: rewards of single turns (`played.step_rewards`); similarity in place of equality; ECPO's gate on noisy groups.
Degenerate case: a call that is alone in its anchor group has the episode's advantage only; `train/anchors_alone` is the share of
such calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Credit, Played, check_ranges
from pilotrl.training.algorithms.credit.group import advantages, group_stats


def anchors(played: Played, with_plan: bool) -> Tensor:
    """[C] integer, equal for calls of one group and role that saw the same last observation, `with_plan` under the same plan."""
    keys = [played.group[played.episode], played.role, played.observation, *([played.plan] if with_plan else [])]
    return torch.unique(torch.stack(keys, dim=1), dim=0, return_inverse=True)[1] if len(keys[0]) else keys[0]


def returns(played: Played, gamma: float) -> Tensor:
    """[C] float64, the episode's reward, discounted by the turns from each call to the last; NaN where there is none, or the
    episode did not follow the call."""
    last = torch.searchsorted(played.episode, played.episode, right=True) - 1  # calls are in order of episode and time
    found = played.rewards[played.episode].double() * gamma ** (played.turn[last] - played.turn)
    return torch.where(played.followed, found, torch.nan)


@dataclass(frozen=True)
class Gigpo(Algorithm):
    """The functions above, with their options."""

    scale_rewards: bool
    """Divide advantages of both levels by the standard deviation of their group."""
    step_weight: float
    """Of the advantage within the anchor group; 0: GRPO."""
    gamma: float
    """Discount from turn to turn."""
    with_plan: bool
    """Calls of an anchor group have the plan in common too."""
    shrinkage: float
    """Calls that an anchor group needs to count half; 0: every group counts in full."""
    smallest_group: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_ranges(self, gamma=(0, 1), step_weight=(0, 1000), shrinkage=(0, 1000))
        super().__post_init__()

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        anchor, found = anchors(played, self.with_plan), returns(played, self.gamma)
        size = torch.bincount(anchor, found.isfinite().double())[anchor] if len(anchor) else found
        step = advantages(found, anchor, self.scale_rewards) * size / (size + self.shrinkage).clamp(min=1)
        episode = advantages(played.rewards, played.group, self.scale_rewards)[played.episode] * played.followed
        stats = group_stats(played.rewards, played.group, played.success)
        stats["anchors_alone"] = float((size <= 1).double().mean()) if len(size) else 0.0
        return Credit(episode + self.step_weight * step, stats=stats)

"""MaxRL: the rarer a success on its task, the more it teaches (arXiv 2602.02710).

Advantage: the reward less the mean of its group, over that mean; every call of an episode gets its episode's. With rewards of 0
and 1 it follows the logarithm of the chance of success in place of the chance.
Left out: nothing. Degenerate case: a group without spread, or with fewer than two rewards, has advantages of exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pilotrl.training.algorithms import Algorithm, Credit, Played, grpo


@dataclass(frozen=True)
class MaxRl(Algorithm):
    """A credit alone, to be put together with any loss: `algorithm/credit=max_rl`. Rewards must not be negative."""

    smallest_group: ClassVar[int] = 2

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        row = torch.unique(played.group, return_inverse=True)[1]
        known = played.rewards.isfinite()
        mean = torch.bincount(row, played.rewards.nan_to_num(0.0)) / torch.bincount(row, known.double()).clamp(min=1)
        centred = grpo.advantages(played.rewards, played.group, scale=False)
        own = torch.where(centred != 0, centred / mean[row].clamp(min=grpo.EPSILON), 0.0)
        stats = grpo.group_stats(played.rewards, played.group, played.success)
        return Credit(own[played.episode] * played.followed, stats=stats)

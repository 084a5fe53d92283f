"""RLOO: an episode is as good as it is better than the mean of the others on its task (arXiv 2402.14740).

Advantage: the reward less the mean of the other rewards of its group, n / (n - 1) times the reward less the group's mean;
every call of an episode gets its episode's. The baseline does not know the episode, so the policy gradient is unbiased.
Left out: the paper's loss, which is REINFORCE over whole replies (`algorithm/loss=reinforce` is that over tokens).
Degenerate case: a group without spread, or with fewer than two rewards, has advantages of exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pilotrl.training.algorithms import Algorithm, Credit, Played
from pilotrl.training.algorithms.credit.group import advantages, group_stats


@dataclass(frozen=True)
class Rloo(Algorithm):
    """It has no options."""

    smallest_group: ClassVar[int] = 2

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        row = torch.unique(played.group, return_inverse=True)[1]
        count = torch.bincount(row, played.rewards.isfinite().double())[row]
        others = advantages(played.rewards, played.group, scale=False) * count / (count - 1).clamp(min=1)
        stats = group_stats(played.rewards, played.group, played.success)
        return Credit(others[played.episode] * played.followed, stats=stats)

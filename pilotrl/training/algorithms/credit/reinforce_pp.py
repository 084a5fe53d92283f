"""REINFORCE++: advantages are normalized over all episodes of a step, not within a group (arXiv 2501.03262).

Advantage: the reward less the mean of all rewards of the step over their sample standard deviation (plus 1e-4);
every call of an episode gets its episode's. With `group_baseline` the group's mean is taken off (the paper's variant for several
episodes a task; `scale_rewards="batch"` of TRL), and the deviation stays that of all rewards.
Left out: the KL penalty inside the reward; statistics over tokens, by which long episodes would count more often.
Degenerate case: a step whose rewards are all equal, or that has fewer than two, has advantages of exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pilotrl.training.algorithms import Algorithm, Credit, Played
from pilotrl.training.algorithms.credit.group import EPSILON, FLOOR, advantages, group_stats


@dataclass(frozen=True)
class ReinforcePP(Algorithm):
    """Without `group_baseline` a group may be of one episode."""

    group_baseline: bool
    """Take off the group's mean in place of the step's."""

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        rewards = played.rewards.double()
        known = rewards[rewards.isfinite()]
        mean = known.sum() / max(len(known), 1)
        std = ((known - mean).square().sum() / max(len(known) - 1, 1)).sqrt()
        centred = rewards.nan_to_num(float(mean)) - mean
        if self.group_baseline:
            centred = advantages(rewards, played.group, scale=False)
        scaled = torch.where(std > FLOOR, centred / (std + EPSILON), 0.0)
        stats = group_stats(rewards, played.group, played.success)
        return Credit(scaled[played.episode] * played.followed, stats=stats)

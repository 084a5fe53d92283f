"""Planner's gain: a plan is worth what its executor earns with it beyond what it earns without one.

Groups hold episodes with plans and without (`stage.agents=[adaplan,naive]`: they take turns). Advantage of a planner's call: the
reward of its episode less the group's mean over episodes in which nothing was planned. Of an executor's call: the reward less
the mean of the others of the group that were played in the same way. Neither baseline knows the call, so the policy gradient is
unbiased; what the first says on average is logged as `planner_gain`: whether plans help.
Left out: what one plan of several in an episode gained.
Degenerate case: a group in which no rewarded episode went without a plan teaches its planner nothing (advantages of exactly 0),
and one whose episodes of a kind have one reward, or are fewer than two, teaches its executor nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Credit, Played
from pilotrl.training.algorithms.credit.group import FLOOR, group_stats

PLANNER = 0


def gains(rewards: Tensor, group: Tensor, planned: Tensor) -> tuple[Tensor, Tensor]:
    """Of episodes with rewards [E] (NaN: missing), group [E], planned [E] bool: reward less the mean of the group's episodes
    without a plan (NaN where there is none), and less the mean of the others of its kind (0 where there is none)."""
    row = torch.unique(group, return_inverse=True)[1]
    kind, valid = 2 * row + planned, ~rewards.isnan()
    count, total = (
        torch.zeros(2 * len(rewards) + 2, dtype=torch.float64).index_add(0, kind, each)
        for each in (valid.double(), rewards.nan_to_num(0.0).double())
    )
    bare = 2 * row
    others = (total[kind] - rewards) / (count[kind] - 1)
    within = torch.where(count[kind] > 1, rewards - others, 0.0)
    gain = rewards - total[bare] / count[bare]
    return torch.where(gain.abs() < FLOOR, 0.0, gain), torch.where(within.abs() > FLOOR, within, 0.0)


@dataclass(frozen=True)
class PlannerGain(Algorithm):
    """It has no options."""

    smallest_group: ClassVar[int] = 4
    compares_plans: ClassVar[bool] = True

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        by_planner = played.role == PLANNER
        planned = torch.zeros(len(played.rewards), dtype=torch.bool).index_fill(0, played.episode[by_planner], True)
        gain, within = gains(played.rewards.double(), played.group, planned)
        credit = torch.where(by_planner, gain[played.episode], within[played.episode]).nan_to_num(0.0) * played.followed
        stats = group_stats(played.rewards, played.group, played.success)
        known = gain[planned & gain.isfinite()]
        return Credit(credit, stats=stats | ({"planner_gain": known.mean().item()} if len(known) else {}))

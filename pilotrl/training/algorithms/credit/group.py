"""Group mean: an episode is as good as it is better than the others on its task (GRPO, arXiv 2402.03300).

Advantage: the reward less the mean of its group; with `scale_rewards` over its sample standard deviation (plus 1e-4, as in TRL);
every call of an episode gets its episode's. Statistics are over episodes, never tokens, and skip missing rewards.
Left out: a deviation over the whole batch (`reinforce_pp`).
Degenerate case: a group without spread, or with fewer than two rewards, teaches nothing. Its advantages are exactly 0,
and the share of such groups is logged, as is that of those among them where nobody solved the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Credit, Played

EPSILON = 1e-4  # TRL's
FLOOR = 1e-6  # rewards lie in [0, 1]: a smaller spread is rounding, float32's included


def _spread(rewards: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Episodes' deviations from their group's mean [E], the groups' standard deviations [G], each episode's row [E]."""
    names, row = torch.unique(group, return_inverse=True)
    valid = ~rewards.isnan()
    count = valid.new_zeros(len(names), dtype=rewards.dtype).index_add(0, row, valid.to(rewards.dtype))
    mean = torch.zeros_like(count).index_add(0, row, rewards.nan_to_num(0.0)) / count
    deviation = torch.where(valid, rewards - mean[row], 0.0)
    squares = torch.zeros_like(count).index_add(0, row, deviation.square())
    return deviation, (squares / (count - 1).clamp(min=1)).sqrt(), row


def advantages(rewards: Tensor, group: Tensor, scale: bool) -> Tensor:
    """[E] float64 from rewards [E] (NaN: missing, gets 0) and group [E]; `scale` divides by the standard deviation."""
    deviation, std, row = _spread(rewards.double(), group)
    scaled = deviation / (std[row] + EPSILON) if scale else deviation
    return torch.where(std[row] > FLOOR, scaled, 0.0)


def group_stats(rewards: Tensor, group: Tensor, success: Tensor) -> dict[str, float]:
    """Shares of all groups: `frac_reward_zero_std` have no spread (TRL's name); of these `frac_groups_unscored` have fewer than
    two rewards to compare, and `frac_groups_unsolved` have them and were never solved."""
    _, std, row = _spread(rewards.double(), group)
    dead = std <= FLOOR
    scored, solved = (torch.zeros_like(std).index_add(0, row, x.to(std.dtype)) for x in (~rewards.isnan(), success))
    kinds = {
        "frac_reward_zero_std": dead,
        "frac_groups_unscored": scored < 2,
        "frac_groups_unsolved": dead & (scored >= 2) & (solved == 0),
    }
    return {name: kind.sum().item() / max(len(std), 1) for name, kind in kinds.items()}


@dataclass(frozen=True)
class Group(Algorithm):
    """The functions above, with their option."""

    scale_rewards: bool
    """Divide group advantages by the group's standard deviation."""
    smallest_group: ClassVar[int] = 2

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        credit = advantages(played.rewards, played.group, self.scale_rewards)[played.episode] * played.followed
        return Credit(credit, stats=group_stats(played.rewards, played.group, played.success))

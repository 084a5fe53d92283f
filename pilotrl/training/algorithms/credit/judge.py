"""Judge credit: beside its episode's, a call has the credit of what the judge said of this very call.

Advantage: that of `group`, plus `turn_credit` times what the call earned by itself less the group's mean of that; with
`scale_rewards` each over its standard deviation. Plans and actions are two scales that are never compared.
It is process supervision (arXiv 2402.03300, section 4.1.3) without the sum over later turns: a verdict is about one call.
Left out: credit for what a plan made later actions earn.
Degenerate case: without verdicts, or with `turn_credit` 0, it is `group`; where all verdicts are equal they give exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pilotrl.training.algorithms import Credit, Played, check_ranges
from pilotrl.training.algorithms.credit.group import EPSILON, FLOOR, Group


def process_advantages(process_rewards: Tensor, call_episode: Tensor, group: Tensor, scale: bool) -> Tensor:
    """[C] float64: what each call earned by itself, less the group's mean; `scale` divides by its standard deviation.
    Mean and deviation weigh each episode alike, however many turns it took. NaN rewards get 0."""
    valid = ~process_rewards.isnan()
    rewards, row = process_rewards.nan_to_num(0.0).double(), torch.unique(group, return_inverse=True)[1][call_episode]
    turns = torch.zeros(len(group), dtype=torch.float64).index_add(0, call_episode, valid.double())
    weight = torch.where(valid, 1 / turns[call_episode].clamp(min=1), 0.0)  # each episode's add up to 1
    episodes = torch.zeros(len(group), dtype=torch.float64).index_add(0, row, weight)

    def mean(values: Tensor) -> Tensor:
        return (torch.zeros_like(episodes).index_add(0, row, values * weight) / episodes.clamp(min=1))[row]

    deviation = torch.where(valid, rewards - mean(rewards), 0.0)
    std = mean(deviation.square()).sqrt()
    return torch.where(std > FLOOR, deviation / (std + EPSILON) if scale else deviation, 0.0)


@dataclass(frozen=True)
class Judge(Group):
    """The function above beside the group's mean."""

    turn_credit: float
    """Weight of what each call earned by itself (adherence, plan quality) beside what its episode earned; 0: plain GRPO."""

    def __post_init__(self) -> None:
        check_ranges(self, turn_credit=(0, 1000))
        super().__post_init__()

    @property
    def credits_candidates(self) -> bool:
        """By its own quality alone."""
        return self.turn_credit > 0

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        credit = super().advantages(played)
        for rewards in played.process_rewards if self.turn_credit else ():
            own = process_advantages(rewards, played.episode, played.group, self.scale_rewards)
            credit = replace(credit, advantages=credit.advantages + self.turn_credit * own)
        return credit

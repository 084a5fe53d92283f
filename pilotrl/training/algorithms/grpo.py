"""GRPO: an episode is as good as it is better than the others on its task (arXiv 2402.03300).

Advantage: the reward less the mean of its group; with `scale_rewards` over its sample standard deviation (plus 1e-4, as in TRL);
every call of an episode gets its episode's. Statistics are over episodes, never tokens, and skip missing rewards.
Loss: minus the mean over all trained tokens of the minibatch (DAPO, arXiv 2503.14476) of min(ratio A, clipped ratio A),
and where A is negative never below dual_clip A (arXiv 1912.09729); ratio is the token's probability now over that when
it was sampled. Left out: the KL term to a reference model, as in the PilotRL paper (arXiv 2508.00344).
Degenerate case: a group without spread, or with fewer than two rewards, teaches nothing. Its advantages are exactly 0,
and the share of such groups is logged, as is that of those among them where nobody solved the task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from pilotrl.training import mismatch
from pilotrl.training.algorithms import Algorithm, Credit, Loss, Played, Scored, check_ranges

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


def process_advantages(process_rewards: Tensor, call_episode: Tensor, group: Tensor, scale: bool) -> Tensor:
    """[C] float64: what each call earned by itself, less the group's mean; `scale` divides by its standard deviation.

    Process supervision (arXiv 2402.03300, section 4.1.3) without the sum over later turns: a verdict is about one call.
    Mean and deviation weigh each episode alike, however many turns it took. NaN rewards get 0.
    """
    valid = ~process_rewards.isnan()
    rewards, row = process_rewards.nan_to_num(0.0).double(), torch.unique(group, return_inverse=True)[1][call_episode]
    turns = torch.zeros(len(group), dtype=torch.float64).index_add(0, call_episode, valid.double())
    weight = torch.where(valid, 1 / turns[call_episode].clamp(min=1), 0.0)  # each episode's add up to 1
    episodes = torch.zeros(len(group), dtype=torch.float64).index_add(0, row, weight)

    def mean(values: Tensor) -> Tensor:
        total = torch.zeros(len(group), dtype=torch.float64).index_add(0, row, values * weight)
        return (total / episodes.clamp(min=1))[row]

    deviation = torch.where(valid, rewards - mean(rewards), 0.0)
    std = mean(deviation.square()).sqrt()
    return torch.where(std > FLOOR, deviation / (std + EPSILON) if scale else deviation, 0.0)


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


def loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    tokens: float,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy loss of N tokens, summed and divided by `tokens` (those of the whole minibatch).

    The stats are divided by it too: `clip_ratio`, the tokens whose gradient a clip cut, and `kl`, from the policy that
    sampled to the present one (estimator k3, ratio - 1 - log ratio: unbiased on the former's samples, never negative).
    """
    advantages, tokens = advantages.to(logprobs), max(tokens, 1)
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    gain = torch.minimum(unclipped, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        gain = torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain)
    drift = log_ratio.detach()
    stats = {"clip_ratio": (gain != unclipped).sum() / tokens, "kl": (drift.expm1() - drift).sum() / tokens}
    return -gain.sum() / tokens, stats


@dataclass(frozen=True)
class Grpo(Algorithm):
    """The functions above, with their options."""

    clip_low: float
    """The ratio is clipped at 1 - clip_low ..."""
    clip_high: float
    """... and at 1 + clip_high."""
    dual_clip: float | None
    """Bound on ratio * |advantage| where the advantage is negative (arXiv 1912.09729); null: none."""
    scale_rewards: bool
    """Divide group advantages by the group's standard deviation."""
    turn_credit: float
    """Weight of what each call earned by itself (adherence, plan quality) beside what its episode earned; 0: plain GRPO."""
    correction: str = field(default="none", kw_only=True)  # runs of before have no such key
    """For an engine that is not the learner: none, tis or sequence_mask (`training/mismatch.py`)."""
    smallest_group: ClassVar[int] = 2

    def __post_init__(self) -> None:
        mismatch.check(self.correction)
        check_ranges(self, clip_low=(0, 1), clip_high=(0, inf), dual_clip=(1, inf), turn_credit=(0, 1000))

    @property
    def credits_candidates(self) -> bool:
        """By its own quality alone."""
        return self.turn_credit > 0

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        credit = advantages(played.rewards, played.group, self.scale_rewards)[played.episode] * played.followed
        for rewards in played.process_rewards if self.turn_credit else ():
            own = process_advantages(rewards, played.episode, played.group, self.scale_rewards)
            credit = credit + self.turn_credit * own
        return Credit(credit, stats=group_stats(played.rewards, played.group, played.success))

    def loss(self, scored: Scored) -> Loss:
        """See the head of this file."""
        given = scored.logprobs, scored.old_logprobs, scored.advantages, scored.tokens
        return Loss(*loss(*given, self.clip_low, self.clip_high, self.dual_clip))

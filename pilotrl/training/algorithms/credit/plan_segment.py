"""Plan segments: a plan is judged by what it led to, an action by what it did under its plan.

HiPER's hierarchical advantage (arXiv 2602.16165) without its tags: a segment is the calls in a row that share a plan, and the
planner's call that wrote it begins it.
Advantage: sums of the surprises of `gae`, reward + gamma V(next) - V. For an action from its call to the end of its segment,
weighted as in `gae`: it owes nothing to what later plans led to. For a call that wrote a plan all of its segment's in full, those
of later segments weighted with lambda once more each. The surprise of the call that writes the next plan belongs to the segment
that it ends as well: else a segment would go on only where the planner kept the plan, a choice that its actions did not make.
Ends, value loss and options are those of `gae`. With exact values and gamma 1 it is unbiased.
Left out: a second value head for plans; a penalty for keeping or changing a plan.
Degenerate cases: a planner's call that repeats the plan is a call of its segment; where no planner is trained only actions have
credit; an episode under one plan has `gae` for its actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pilotrl.training.algorithms import Credit, Played
from pilotrl.training.algorithms.credit.gae import Gae, arrivals, credit, gae


def begins(played: Played) -> Tensor:
    """[C] bool, the first call under its plan in its episode; a planner's, if it wrote that plan."""
    before = torch.zeros_like(played.followed)  # whether the call before is of the same episode
    before[1:] = played.episode[1:] == played.episode[:-1]
    writes = (played.role == 0) & before.roll(-1)  # the plan that a planner wrote is that of the next call
    plan = torch.where(writes, played.plan.roll(-1), played.plan)
    return ~before | (plan != plan.roll(1))


@dataclass(frozen=True)
class PlanSegment(Gae):
    """Options are those of `gae`."""

    def advantages(self, played: Played) -> Credit:
        """See the head of this file."""
        arrived, bootstrap = arrivals(played)
        given = arrived, played.values, bootstrap, played.episode, played.terminated, self.gamma
        surprise, begun = gae(*given, 0.0)[0].tolist(), begins(played)
        writes, episode = (begun & (played.role == 0)).tolist(), played.episode.tolist()
        found, within, onward = [*surprise], 0.0, 0.0  # the latter from the next call on, in its segment and in all
        for i in reversed(range(len(found))):
            if i + 1 == len(found) or episode[i + 1] != episode[i]:
                within = onward = 0.0
            decay = self.gae_lambda if writes[i] else 1.0
            found[i] += self.gamma * (onward if writes[i] else self.gae_lambda * within)
            onward = surprise[i] + self.gamma * decay * onward
            within = surprise[i] if writes[i] else 0.0 if begun[i] else found[i]
        advantages = torch.tensor(found, dtype=torch.float64, device=played.values.device)
        return credit(played, advantages, advantages + played.values.double())

"""GRPO (arXiv 2402.03300): credit by group and judge (`credit/group.py`, `credit/judge.py`), the loss `losses/clip.py`.

With `turn_credit` 0 and `scale_rewards` it is the published algorithm but for the mean: over tokens of the whole minibatch
(DAPO, arXiv 2503.14476); `algorithm/loss=clip_by_call` is the published one. The KL term to a reference model is off, as in the
PilotRL paper (arXiv 2508.00344); `beta` above 0 has it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotrl.training.algorithms.credit.group import EPSILON, FLOOR, advantages, group_stats
from pilotrl.training.algorithms.credit.judge import Judge, process_advantages
from pilotrl.training.algorithms.losses import Regularized
from pilotrl.training.algorithms.losses.clip import Clip, loss

__all__ = ["EPSILON", "FLOOR", "Grpo", "advantages", "group_stats", "loss", "process_advantages"]


@dataclass(frozen=True)
class Grpo(Judge, Regularized, Clip):
    """The pair, to derive from: what `algorithm=grpo` puts together."""

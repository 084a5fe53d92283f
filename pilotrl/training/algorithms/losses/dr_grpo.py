"""Dr. GRPO: a loss is divided by a constant, never by how long replies happen to be (arXiv 2503.20783).

Loss: that of `clip`, summed over the tokens of the minibatch, over calls times `length`. In the paper the unit is a reply and
`length` the most that it may have; an episode of several calls is as many units.
Left out: nothing; that advantages are not divided by a deviation is a matter of credit (`scale_rewards=false`).
Degenerate case: where the calls of each minibatch have `length` tokens in the mean it is `clip`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pilotrl.training.algorithms import Scored, check_ranges
from pilotrl.training.algorithms.losses.clip_by_call import ClipByCall


@dataclass(frozen=True)
class DrGrpo(ClipByCall):
    """`clip_by_call` with other weights. Options are those of `clip`, and the constant."""

    length: int
    """What a call's sum over tokens is divided by; it only scales the gradient."""

    def __post_init__(self) -> None:
        check_ranges(self, length=(1, 10**6))
        super().__post_init__()

    def weights(self, scored: Scored) -> Tensor:
        """[N], all alike."""
        return torch.full_like(scored.old_logprobs, 1 / (max(scored.calls, 1) * self.length))

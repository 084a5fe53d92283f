"""SAPO: in place of a clip a gate that closes softly (arXiv 2511.20347).

Loss: minus the mean over calls of the mean over their tokens of 4 / tau sigmoid(tau (ratio - 1)) A, where tau is `tau_positive`
for A above 0 and `tau_negative` else. The gate's slope at ratio 1 is 1, and falls on both sides, the faster the larger tau.
Left out: nothing.
Degenerate case: on the weights that sampled the gradient is that of `clip_by_call`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pilotrl.training.algorithms import Loss, Scored, check_ranges
from pilotrl.training.algorithms.losses import RatioLoss, by_call, drift, over_calls


@dataclass(frozen=True)
class Sapo(RatioLoss):
    """Nothing is clipped, so there is no `train/clip_ratio`."""

    tau_positive: float
    """How fast the gate closes where the advantage is positive ..."""
    tau_negative: float
    """... and where it is not; larger, since such gradients spread over all other words and are less stable."""

    def __post_init__(self) -> None:
        check_ranges(self, tau_positive=(0.01, 100), tau_negative=(0.01, 100))
        super().__post_init__()

    def loss(self, scored: Scored) -> Loss:
        """See the head of this file."""
        ratio, advantages = (scored.logprobs - scored.old_logprobs).exp(), scored.advantages.to(scored.logprobs)
        tau = torch.where(advantages > 0, self.tau_positive, self.tau_negative)
        gain = torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages
        return Loss(-over_calls(gain, scored).sum() / max(scored.calls, 1), {"kl": drift(scored)})

    def weights(self, scored: Scored) -> Tensor:
        """[N], see there."""
        return by_call(scored)

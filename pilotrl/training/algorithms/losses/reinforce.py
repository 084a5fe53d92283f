"""REINFORCE: make tokens likely in proportion to their advantage (Williams, 1992).

Loss: minus the mean over all trained tokens of the minibatch of A logprob. With A = 1 everywhere it is cross entropy (`sft`).
Left out: any ratio to the probabilities at sampling. So a step that learns from the policy's own episodes has one update
(`train.minibatches=1`; more are refused): in a second one the weights would no longer be those that played.
Degenerate case: a micro-batch without trained tokens has loss 0 and gradient 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Loss, Scored


def loss(logprobs: Tensor, advantages: Tensor, tokens: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the sum of advantages [N] times logprobs [N], over `tokens` (of the whole minibatch); no stats."""
    return -(advantages.to(logprobs) * logprobs).sum() / max(tokens, 1), {}


@dataclass(frozen=True)
class Reinforce(Algorithm):
    """The function above; it has no options."""

    ratio: ClassVar[bool] = False

    def loss(self, scored: Scored) -> Loss:
        """See the head of this file."""
        return Loss(*loss(scored.logprobs, scored.advantages, scored.tokens))

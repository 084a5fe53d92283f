"""Clipped ratio, every call alike: GRPO's mean as it was published (arXiv 2402.03300).

Loss: that of `clip`, but each call's tokens are averaged first, then the calls of the minibatch. The paper's unit is a reply; an
episode of several calls weighs as many times here.
Left out: the same weight for every episode.
Degenerate case: where all calls have as many tokens it is `clip`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pilotrl.training.algorithms import Loss, Scored
from pilotrl.training.algorithms.losses import by_call
from pilotrl.training.algorithms.losses.clip import Clip


@dataclass(frozen=True)
class ClipByCall(Clip):
    """Options are those of `clip`."""

    def loss(self, scored: Scored) -> Loss:
        """See the head of this file."""
        share = self.weights(scored) * scored.tokens  # what `clip` gives a token is 1 / tokens
        return super().loss(replace(scored, advantages=scored.advantages * share))

    def weights(self, scored: Scored) -> Tensor:
        """[N], see there."""
        return by_call(scored)

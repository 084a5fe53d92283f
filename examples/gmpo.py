"""GMPO: the geometric mean of a reply's token ratios, each clipped by itself (arXiv 2507.20673).

Loss: minus the mean over replies (calls) of A times the geometric mean of the token ratios, where a ratio that
has moved the way A pushes it counts as no further than e^clip from 1.
Left out: nothing. Degenerate case: a reply of one token has the ratio of that token.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotrl.training.algorithms import Algorithm, Loss, Scored, check_ranges
from pilotrl.training.algorithms.losses import over_calls


@dataclass(frozen=True)
class Gmpo(Algorithm):
    """A loss alone, to be put together with any credit: `algorithm/loss=gmpo`."""

    clip: float
    """Bound on a token's log ratio; 0.4 in the paper."""

    def __post_init__(self) -> None:
        check_ranges(self, clip=(0, 10))
        super().__post_init__()

    def loss(self, scored: Scored) -> Loss:
        """See the head of this file."""
        advantages = scored.advantages.to(scored.logprobs)
        moved = (scored.logprobs - scored.old_logprobs) * advantages.sign()
        counted = moved.clamp(max=self.clip) * advantages.sign()
        gain = over_calls(counted, scored).exp() * over_calls(advantages, scored)
        clipped = ((moved > self.clip) & (advantages != 0)).sum() / max(scored.tokens, 1)
        return Loss(-gain.sum() / max(scored.calls, 1), {"clip_ratio": clipped})

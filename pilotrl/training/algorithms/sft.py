"""SFT: make the demonstrated tokens likely. Cross entropy, the mean over all trained tokens of the minibatch.

It is the policy gradient (`losses/reinforce.py`) with advantage 1 everywhere (`credit/demonstrated.py`), less for the
environment's words, where a stage learns those too.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotrl.training.algorithms.credit.demonstrated import Demonstrated
from pilotrl.training.algorithms.losses.reinforce import Reinforce, loss

__all__ = ["Sft", "loss"]


@dataclass(frozen=True)
class Sft(Demonstrated, Reinforce):
    """The pair, to derive from: what `algorithm=sft` puts together."""

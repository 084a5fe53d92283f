"""PPO (arXiv 1707.06347): generalized advantage estimation over calls (`credit/gae.py`), the clipped ratio (`losses/clip.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from pilotrl.training.algorithms.credit.gae import Gae, gae, value_loss
from pilotrl.training.algorithms.losses import Regularized
from pilotrl.training.algorithms.losses.clip import Clip

__all__ = ["Ppo", "gae", "value_loss"]


@dataclass(frozen=True)
class Ppo(Gae, Regularized, Clip):
    """The pair, to derive from: what `algorithm=ppo` puts together."""

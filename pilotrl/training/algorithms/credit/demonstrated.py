"""Demonstrations: what the expert said is right. Advantage 1 for every call.

Rewards are not read: which demonstrations are worth learning from is decided where they are played.
Left out: weights by how well a demonstration ended.
Degenerate case: there is none; a missing reward changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pilotrl.training.algorithms import Algorithm, Credit, Played


@dataclass(frozen=True)
class Demonstrated(Algorithm):
    """It has no options, and goes with the loss `reinforce`: nobody sampled what an expert says."""

    demonstrations: ClassVar[bool] = True

    def advantages(self, played: Played) -> Credit:
        """1 for every call, whatever the rewards."""
        return Credit(torch.ones(len(played.episode), dtype=torch.float64, device=played.episode.device))

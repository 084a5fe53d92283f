"""How far the engine that played is from the learner, where it plays with a copy of the weights, and what can be done about it.

`moved` is everywhere [N]: the learner's log-probability of a sampled token less the engine's, under the same weights. In float32
it is rounding; in bfloat16 some hundredths.

Corrections, `algorithm.correction`:
none: the ratio of the loss is the learner's probability over the engine's, as recorded. It is unbiased, the clip bounds it, and
the learner need not compute what it would have said before it learned.
tis: the ratio is over the learner's own probability before it learned, and each token's advantage is multiplied by that over the
engine's, at most 2 (truncated importance sampling; the cap is SkyRL's).
sequence_mask: the same with one factor for all tokens of a call, the product of theirs; a call above 3 counts nothing (TRL's
default).
Degenerate case: an engine that is the learner has factors of 1 up to rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pilotrl.models.kl import k3
from pilotrl.types import UserError

CORRECTIONS = ("none", "tis", "sequence_mask")
TOKEN_CAP = 2.0
CALL_CAP = 3.0


def weights(correction: str, moved: Tensor, call: Tensor) -> Tensor:
    """[N] factors of the advantages. call: [N] integer, equal for tokens of one call, all of which are here."""
    if correction == "tis":
        return moved.exp().clamp(max=TOKEN_CAP)
    names, row = torch.unique(call, return_inverse=True)
    whole = torch.zeros(len(names)).to(moved).index_add(0, row, moved)[row].exp()
    return torch.where(whole > CALL_CAP, 0.0, whole)


def stats(moved: Tensor) -> dict[str, float]:
    """To log: KL a token from the engine to the learner (k3), the largest difference, the share of ratios outside [1/2, 2]."""
    if not len(moved):
        return {}
    outside = (moved.abs() > math.log(2)).double().mean()
    found = {"kl": k3(moved).mean(), "largest": moved.abs().max(), "outside": outside}
    return {f"engine/{name}": float(value) for name, value in found.items()}


def check(correction: str) -> None:
    """Raises UserError for a correction that there is not."""
    if correction not in CORRECTIONS:
        raise UserError(f"correction={correction}: must be one of {', '.join(CORRECTIONS)}")

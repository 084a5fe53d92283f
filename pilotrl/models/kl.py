"""How far one policy is from another, told from what one of them sampled."""

from __future__ import annotations

from torch import Tensor


def k3(log_ratio: Tensor) -> Tensor:
    """Of each sampled token an estimate of the KL from who sampled to another, in nats: ratio - 1 - log ratio, where the ratio is
    the other's probability over the sampler's. Unbiased in the mean, and never negative (Schulman, 2020)."""
    return log_ratio.expm1() - log_ratio

"""What ends a run that cannot come to a result: weights that are no longer numbers, episodes that cannot be played."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pilotrl.training.module import PilotModule
from pilotrl.types import Episode, RunFailed


def check_learned(module: PilotModule, step: int) -> None:
    """Loss, gradient and weights are finite after a step. Every rank has the same, and ends. Raises RunFailed."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(value := module.metrics.get(f"train/{name}", 0.0)):
            raise RunFailed(f"step {step}: {name} is {value}; {REMEDY}")
    if not all(bool(p.isfinite().all()) for p in module.parameters() if p.requires_grad):
        raise RunFailed(f"step {step}: weights are no longer finite; {REMEDY}")


REMEDY = "start again with a lower train.lr (or train.muon_lr), a lower train.grad_clip, or a longer train.lr_warmup"


def check_played(episodes: Sequence[Episode], share: float, what: str, key: str | None) -> None:
    """No more than a share of episodes is broken: of fewer, nothing could be learned or said. Raises RunFailed."""
    broken = sum(episode.outcome == "broken" for episode in episodes)
    if episodes and broken > share * len(episodes):
        names = ", ".join(sorted({episode.task.env for episode in episodes if episode.outcome == "broken"}))
        limit = f"more than {key}={share}; " if key else ""
        raise RunFailed(
            f"{what}: {broken} of {len(episodes)} episodes are broken, {limit}env={names} failed three times in each;"
            " see that it answers, then go on with resume="
        )

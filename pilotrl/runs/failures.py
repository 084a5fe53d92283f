"""What ends a run that cannot come to a result: weights that are no longer numbers, episodes that cannot be played."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pilotrl.training.module import PilotModule
from pilotrl.types import Episode, RunFailed

REMEDY = "start again with a lower train.lr (or train.muon_lr), a lower train.grad_clip, or a longer train.lr_warmup"


def check_learned(module: PilotModule, step: int) -> None:
    """Loss, gradient and weights are finite after a step. Every rank has the same, and ends. Raises RunFailed."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(value := module.metrics.get(f"train/{name}", 0.0)):
            raise RunFailed(f"step {step}: {name} is {value}; {REMEDY}")
    if not all(bool(p.isfinite().all()) for p in module.parameters() if p.requires_grad):
        raise RunFailed(f"step {step}: weights are no longer finite; {REMEDY}")


def check_played(episodes: Sequence[Episode], most: float, what: str, limit: str = "") -> None:
    """At most so many episodes are broken: with more, nothing could be learned or said. limit: what says so. Raises RunFailed."""
    broken = [episode.task.env for episode in episodes if episode.outcome == "broken"]
    if len(broken) > most:
        raise RunFailed(
            f"{what}: {len(broken)} of {len(episodes)} episodes are broken{limit and f', more than {limit}'};"
            f" env={', '.join(sorted({*broken}))}, or a model behind an address, failed three times in each; see that it"
            " answers, then resume= goes on with a run"
        )

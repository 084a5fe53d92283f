"""Two steps of training with the shipped model, for environments of other people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SIZES = (
    "train.steps=2",
    "train.tasks=1",
    "train.group_size=2",
    "panel.tasks=1",
    "panel.samples=1",
    "trainer.threads=1",
)
SMALL = (*SIZES, "tracking.uri=off", "stage=coordination", "stage.planner=policy", "agent=naive", "model=nano")


def trained(folder: Path, *words: str) -> list[dict[str, Any]]:
    """Metrics of the steps."""
    from pilotrl.cli.compose import composed_job, parse
    from pilotrl.runs import run as running
    from pilotrl.store.run_folder import RunFolder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "learning_curve", lambda *given: None)
        running.run(composed_job(parse([]), [*SMALL, *words]).config, folder)
    return [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]

"""Every algorithm learns ToyEnv within a minute of one core, and none does when rewards say nothing about episodes."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from pilotrl import CONF
from pilotrl.cli.compose import composed_job, parse
from pilotrl.runs import run as running
from pilotrl.store.run_folder import RunFolder

pytestmark = pytest.mark.slow

SMALL = (
    "env=toy",
    "stage=adherence",
    "teacher.wording=exact",  # ToyEnv's loose steps all say the same, and `warm` has not seen them
    "model=nano",
    "model.lora.rank=null",
    "model.max_length=512",
    "train.lr=1e-3",
    "train.lr_schedule=linear",
    "train.micro_tokens=8192",
    "panel.tasks=100",
    "panel.samples=1",
    "panel.temperature=1",
    "panel.top_p=1",
    "panel.greedy=false",
    "checkpoint.every=1000",
    "checkpoint.calls_every=0",
    "trainer.threads=1",
    "tracking.uri=off",
)

ALGORITHMS = sorted({path.stem for path in (CONF / "algorithm").glob("*.yaml")} - {"sft"})
"""All that learn from rewards."""
STEPS = {"grpo": 45, "ppo": 60, "gspo": 120, "plan_segment": 120}
"""Others take 75."""


def play(folder: Path, model: Path, *overrides: str) -> tuple[list[float], dict[str, Any]]:
    """Success in every step, and the panel with the teacher's plans; all of it sampled at temperature 1."""
    running.run(composed_job(parse([]), [*SMALL, f"model.path={model}", *overrides]).config, folder)
    lines = map(json.loads, RunFolder(folder).metrics.read_text().splitlines())
    panel: dict[str, Any] = json.loads(RunFolder(folder).summary.read_text())["eval_teacher"]
    return [line["env/success"] for line in lines], panel


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_learns(warm: Path, tmp_path: Path, algorithm: str) -> None:
    success, panel = play(tmp_path, warm, f"algorithm={algorithm}", f"train.steps={STEPS.get(algorithm, 75)}")
    assert 0.1 < fmean(success[:2]) < 0.7
    assert fmean(success[-5:]) >= 0.95
    assert panel["after"]["success"] >= 0.95
    assert panel["paired"]["success"]["low"] > 0.2


def test_demonstrations_are_learned(warm: Path, tmp_path: Path) -> None:
    sft = (
        "stage=warmstart",
        "stage.agents=[]",
        "stage.trains=[executor]",
        "stage.observation_weight=0.0",
        "train.steps=60",
    )
    _, panel = play(
        tmp_path, warm, *sft, "train.lr=3e-3", "train.muon_lr=null", "train.lr_warmup=0", "train.validate_every=0"
    )
    assert panel["before"]["success"] < 0.7
    assert panel["after"]["success"] >= 0.95


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_does_not_learn_from_shuffled_rewards(warm: Path, tmp_path: Path, algorithm: str) -> None:
    control = (f"algorithm={algorithm}", "train.steps=30", "train.shuffle_rewards=true")
    success, panel = play(tmp_path, warm, *control)
    assert fmean(success[-5:]) < fmean(success[:5]) + 0.1
    assert panel["paired"]["success"]["low"] <= 0

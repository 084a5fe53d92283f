"""The examples, each by its command from a folder of one's own: nothing of ours knows them, and ToyEnv is learned with each."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from pilotrl import PACKAGE
from pilotrl.__main__ import main
from pilotrl.store.run_folder import RunFolder

EXAMPLES = PACKAGE.parent / "examples"
SMALL = (
    "model.lora.rank=null",
    "model.max_length=512",
    "train.micro_tokens=8192",
    "panel.tasks=48",
    "panel.samples=1",
    "panel.greedy=false",
    "drift.every=0",
    "checkpoint.every=1000",
    "checkpoint.calls_every=0",
    "trainer.threads=1",
    "tracking.uri=off",
)
TOY = ("env=toy", "stage=adherence", "train.lr=1e-3", "train.steps=30")
DEMONSTRATIONS = (
    "stage=warmstart", "stage.agents=[]", "stage.observation_weight=0", "train.steps=80", "train.lr=3e-3",
    "train.muon_lr=null", "train.lr_warmup=0", "train.validate_every=0", "stage.planner=teacher",
)  # fmt: skip


def run(folder: Path, model: Path, *words: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Metrics of every step, and the summary."""
    command = ["-cd", str(EXAMPLES), *SMALL, f"model.path={model}", f"hydra.run.dir={folder / 'run'}", *words]
    assert main(command) == 0
    made = RunFolder(folder / "run")
    return [json.loads(line) for line in made.metrics.read_text().splitlines()], json.loads(made.summary.read_text())


def success(lines: list[dict[str, Any]]) -> tuple[float, float]:
    """Of the first and of the last five steps."""
    return fmean(line["env/success"] for line in lines[:5]), fmean(line["env/success"] for line in lines[-5:])


@pytest.mark.parametrize("name", ["gspo", "gigpo"])
def test_an_algorithm_learns(warm: Path, tmp_path: Path, name: str) -> None:
    lines, summary = run(tmp_path, warm, *TOY, f"algorithm={name}")
    before, after = success(lines)
    assert after > before + 0.2
    assert summary["algorithm"] == name
    assert summary["eval_teacher"]["paired"]["success"]["low"] > 0
    assert ("train/anchors_alone" in lines[0]) == (name == "gigpo")


def test_a_reward_term_counts(warm: Path, tmp_path: Path) -> None:
    lines, _ = run(tmp_path, warm, *TOY, "reward=brevity", "stage.terms=[outcome,brevity]", "reward.overlong_penalty=0")
    for line in lines:
        assert line["reward/total"] == pytest.approx((line["reward/outcome"] + 0.5 * line["reward/brevity"]) / 1.5)
    before, after = success(lines)
    assert after > before + 0.2


def test_a_set_of_prompts_is_learned(warm: Path, tmp_path: Path) -> None:
    _, summary = run(tmp_path, warm, "env=toy", *DEMONSTRATIONS, "model.prompts=terse")
    assert summary["eval_teacher"]["paired"]["success"]["low"] > 0.2
    panel = json.loads((tmp_path / "run" / "panel.json").read_text())
    assert panel["protocol"]["prompts"]["act"] == "{step} ->"


def test_an_environment_of_a_mixture_is_learned(warm: Path, tmp_path: Path) -> None:
    lines, summary = run(tmp_path, warm, "env=worlds", "env.trains=[toy,keydoor]", *DEMONSTRATIONS)
    assert {"env/toy/success", "env/keydoor/success"} <= lines[0].keys()
    played = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()]
    assert {episode["task"]["env"] for episode in played} == {"toy", "keydoor"}
    assert summary["eval_teacher"]["paired"]["success"]["low"] > 0

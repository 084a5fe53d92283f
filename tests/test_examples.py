"""The examples, each by its command from a folder of one's own: nothing of ours knows them, and ToyEnv is learned with each."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from pilotrl import PACKAGE
from pilotrl.__main__ import main
from pilotrl.store.run_folder import RunFolder
from tests.training.algorithms.records import played, scored

EXAMPLES = PACKAGE.parent / "examples"
SMALL = (
    "teacher.wording=exact",  # ToyEnv's loose steps all say the same, and `warm` has not seen them
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


@pytest.mark.parametrize(
    ("name", "words"), [("max_rl", ("algorithm=max_rl",)), ("grpo", ("algorithm/loss=gmpo", "algorithm.clip=0.3"))]
)
def test_an_algorithm_learns(warm: Path, tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    lines, summary = run(tmp_path, warm, *TOY, *words)
    before, after = success(lines)
    assert after > before + 0.2
    assert summary["algorithm"] == name
    assert summary["eval_teacher"]["paired"]["success"]["low"] > 0


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


def test_an_environment_of_a_mixture_is_learned_beside_ours(warm: Path, tmp_path: Path) -> None:
    mixed = ("env=worlds", "env.trains=[toy,keydoor]", *TOY[1:], "model.max_action_tokens=8")
    lines, _ = run(tmp_path, warm, *mixed)
    toy = [line["env/toy/success"] for line in lines]
    assert fmean(toy[-5:]) > fmean(toy[:5]) + 0.2
    assert all("env/keydoor/success" in line for line in lines)
    episodes = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()]
    assert {episode["task"]["env"] for episode in episodes} == {"toy", "keydoor"}


def test_a_rare_success_teaches_more() -> None:
    """Groups of four, with one success and with three."""
    max_rl: Any = import_module("max_rl")
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    found = max_rl.MaxRl().advantages(played(rewards, torch.arange(2).repeat_interleave(4), torch.arange(8)))
    expected = [3.0, -1.0, -1.0, -1.0, 1 / 3, 1 / 3, 1 / 3, -1.0]
    assert found.advantages.tolist() == pytest.approx(expected)


def test_each_token_is_clipped_within_the_mean_of_its_reply() -> None:
    """Two calls worked by hand: of the first a token is clipped; the second has moved against its advantage, and is not."""
    gmpo: Any = import_module("gmpo")
    logprobs = torch.tensor([-1.0, -2.0, -1.0], requires_grad=True)
    shown = scored(
        logprobs,
        torch.tensor([-1.1, -3.0, -1.5]),
        torch.tensor([1.0, 1.0, -2.0]),
        token_call=torch.tensor([0, 0, 1]),
        call=torch.arange(2),
        calls=2,
    )
    loss = gmpo.Gmpo(clip=0.4).loss(shown)
    assert loss.value.item() == pytest.approx(-(math.exp(0.25) - 2 * math.exp(0.5)) / 2)
    assert loss.stats["clip_ratio"].item() == pytest.approx(1 / 3)
    loss.value.backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-math.exp(0.25) / 4, 0.0, math.exp(0.5)])

"""Resuming: the same command gives the same run, bit for bit, interrupted or not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pilotrl import PACKAGE
from pilotrl.cli.compose import composed_job, parse
from pilotrl.runs import run as running
from pilotrl.runs.step_metrics import BY_CLOCK
from pilotrl.store.run_folder import RunFolder

SMALL = (
    "env=toy",
    "model.max_length=192",
    "model.max_plan_tokens=12",
    "model.max_action_tokens=8",
    "train.steps=5",
    "train.tasks=2",
    "train.group_size=4",
    "train.minibatches=2",
    "train.micro_tokens=512",
    "panel.tasks=3",
    "panel.samples=1",
    "panel.greedy=false",
    "drift.tasks=2",
    "drift.every=2",
    "checkpoint.every=2",
    "checkpoint.calls_every=3",
    "trainer.threads=1",
    "tracking.uri=off",
)
KINDS: dict[str, tuple[str, ...]] = {
    "grpo": ("stage=adherence", "model.lora.rank=null"),
    "ppo": ("stage=adherence", "algorithm=ppo", "agent.context=current"),
    "lora": ("stage=adherence", "algorithm=ppo", "model.lora.rank=4", "model.gradient_checkpointing=true"),
    "sampled": (
        "stage=adherence",
        "teacher.wording=exact",
        "algorithm=dapo",
        "algorithm.beta=0.1",
        "algorithm.entropy_coef=0.01",
        "train.resample=1",
        "stage.terms=[outcome]",
        "curriculum.turns=[1,2]",
        "curriculum.easy=0.5",
        "curriculum.hard=0.5",
        "train.minibatches=1",
    ),
    "lagged": ("stage=adherence", "algorithm=ppo", "model.lora.rank=4", "train.lr=3e-2", "train.lag=1"),
    "ahead": (
        *("stage=adherence", "model.lora.rank=4", "train.lr=3e-2", "train.lag=1", "train.resample=1"),
        *("curriculum.easy=0.5", "curriculum.hard=0.5", "engine.name=copying", "engine.slots=16"),
        "engine._target_=tests.engine.copying_engine.CopyingEngine",
    ),
    "lasting": ("stage=adherence", "agent.steps=subgoal", "model.lora.rank=null"),
    "separate": ("stage=adherence", "model.lora.rank=4", "model.roles=separate"),
    "isolated": ("stage=adherence", "model.roles=isolated", "model.lora.rank=null"),
    "own actions": (
        "stage=warmstart",
        "stage.own_actions=0.5",
        "stage.observation_weight=0",
        "model.lora.rank=null",
        *(f"train.{key}" for key in ("muon_lr=null", "validate_every=1", "validate_tasks=2", "patience=0")),
    ),
    "sft": (
        "stage=warmstart",
        "stage.observation_weight=0",
        "model=scratch",
        *(f"model.scratch.{key}" for key in ("vocabulary=360", "width=32", "inner=64", "layers=2", "texts=20")),
        *(f"train.{key}" for key in ("lr=10.0", "lr_warmup=0", "validate_every=1", "validate_tasks=2", "patience=1")),
    ),
}


Play = Callable[..., Path]
Whole = Callable[[str], Path]


class Interrupted(BaseException):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def play(warm: Path) -> Iterator[Play]:
    """Runs one kind in a folder."""

    def run(folder: Path, kind: str, *overrides: str) -> Path:
        job = composed_job(parse([]), [*SMALL, f"model.path={warm}", *KINDS[kind], *overrides])
        running.run(job.config, folder)
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "learning_curve", lambda *given: None)  # a second a picture
        yield run


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines without what a clock says."""
    lines = map(json.loads, RunFolder(folder).metrics.read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith(BY_CLOCK)} for line in lines]


def result(folder: Path) -> tuple[Any, ...]:
    """Everything that has to be the same."""
    run = RunFolder(folder)
    summary = json.loads(run.summary.read_text())
    counted = {k: v for k, v in summary["train"].items() if not k.endswith("_seconds")}
    panels = {k: summary[k] for k in ("eval", "eval_teacher", "panel", "drift", "weights_sha256", "config_sha256")}
    calls = sorted(path.name for path in run.calls.glob("*"))
    policy = [path.read_bytes() for path in sorted(run.policy.rglob("*.safetensors"))]
    return panels, counted, metrics(folder), run.episodes.read_bytes(), calls, policy


@pytest.fixture(scope="module")
def whole(play: Play, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Folder of a run that was never interrupted, one of each kind."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = play(tmp_path_factory.mktemp("whole") / kind, kind)
        return made[kind]

    return folder


def disturb() -> None:
    """Draw from every global source of random numbers, as another program would have."""
    for _ in range(3):
        random.random()
        np.random.rand()
        torch.rand(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_command_twice_gives_the_same_run(whole: Whole, play: Play, tmp_path: Path, kind: str) -> None:
    one = whole(kind)
    disturb()
    assert result(play(tmp_path / "again", kind)) == result(one)
    steps = [line["step"] for line in metrics(one)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) == 5 or kind == "sft"  # which stops when it learns no more
    assert all(line["train/grad_norm"] > 0 for line in metrics(one))  # there was something to learn


def test_the_calls_of_the_first_step_are_kept_too_unless_none_are(whole: Whole, play: Play, tmp_path: Path) -> None:
    """So that a short run has a step to look at; and whether they are kept changes nothing else."""
    *with_calls, kept, policy = result(whole("grpo"))
    assert kept == ["step-000001.safetensors", "step-000003.safetensors"]
    *without, none, same = result(play(tmp_path, "grpo", "checkpoint.calls_every=0"))
    assert none == []
    for one in (with_calls, without):
        one[0].pop("config_sha256")
    assert (without, same) == (with_calls, policy)


def test_measuring_drift_changes_nothing_else(whole: Whole, play: Play, tmp_path: Path) -> None:
    """Also for the planner, which makes no calls in this training: its plans are the teacher's."""
    unwatched, watched = metrics(play(tmp_path, "grpo", "drift.every=0")), metrics(whole("grpo"))
    drifts = [{k: line.pop(k) for k in [*line] if k.startswith("drift/")} for line in watched]
    assert watched == unwatched
    assert [sorted(drift) for drift in drifts] == [[], both := ["drift/executor", "drift/planner"], [], both, both]
    summaries = [json.loads(RunFolder(folder).summary.read_text()) for folder in (tmp_path, whole("grpo"))]
    assert summaries[0]["weights_sha256"] == summaries[1]["weights_sha256"]
    assert summaries[0]["drift"] is None
    assert {f"drift/{role}": kl for role, kl in summaries[1]["drift"].items()} == drifts[-1]


def test_held_out_demonstrations_are_the_experts_alone(play: Play, tmp_path: Path) -> None:
    """Whoever acts in training: so their losses compare."""
    losses = [
        [
            line["valid/loss"]
            for line in metrics(play(tmp_path / share, "own actions", *same, f"stage.own_actions={share}"))
        ]
        for same in [("train.lr=1e-30", "train.steps=1")]
        for share in ("0", "1")
    ]
    assert losses[0] == losses[1]


def test_another_seed_gives_another_run(whole: Whole, play: Play, tmp_path: Path) -> None:
    other = play(tmp_path / "other", "grpo", "seed=1")
    summaries = [json.loads(RunFolder(folder).summary.read_text()) for folder in (whole("grpo"), other)]
    assert summaries[0]["weights_sha256"] != summaries[1]["weights_sha256"]
    assert summaries[0]["panel"] == summaries[1]["panel"]


WHERE: dict[str, tuple[str, int]] = {
    "while the panel is played before": ("evaluated", 1),
    **{f"before the lines of step {step}": ("after_step", step) for step in (1, 4)},
    **{f"after the lines of step {step}": ("display.update", step) for step in (1, 3, 4, 5)},
    "while the panel is played after": ("evaluated", 2),
    "before the summary": ("summary", 1),
}
"""Which call of which method does not come back."""


def interrupted(play: Play, folder: Path, kind: str, name: str, count: int) -> None:
    """Start a run whose `count`-th call of a method does not come back."""
    owner: Any = running.Display if name.startswith("display.") else running.Run
    method = name.removeprefix("display.")
    kept, calls = getattr(owner, method), iter(range(1, 1000))

    def once(*given: Any) -> Any:
        if next(calls) == count:
            if name == "evaluated":  # in the middle: half of it is on disk
                kept(*given)
            raise Interrupted
        return kept(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, once)
        with pytest.raises(Interrupted):
            play(folder, kind)
    assert not RunFolder(folder).finished
    disturb()


@pytest.mark.parametrize(("name", "count"), WHERE.values(), ids=WHERE)
def test_an_interrupted_run_ends_like_one_that_never_was(
    whole: Whole, play: Play, tmp_path: Path, name: str, count: int
) -> None:
    interrupted(play, tmp_path, "grpo", name, count)
    assert result(play(tmp_path, "grpo")) == result(whole("grpo"))


@pytest.mark.parametrize("kind", ["lasting", "own actions"])
def test_steps_that_last_and_demonstrations_of_own_actions_are_resumed_too(
    whole: Whole, play: Play, tmp_path: Path, kind: str
) -> None:
    interrupted(play, tmp_path, kind, "after_step", 4)
    assert result(play(tmp_path, kind)) == result(whole(kind))


def test_the_value_head_is_resumed_too(whole: Whole, play: Play, tmp_path: Path) -> None:
    interrupted(play, tmp_path, "ppo", "display.update", 3)
    assert result(play(tmp_path, "ppo")) == result(whole("ppo"))
    values, others = (load_file(folder / "value.safetensors") for folder in (tmp_path, whole("ppo")))
    assert all(torch.equal(tensor, values[name]) for name, tensor in others.items())
    assert values["weight"].abs().sum() > 0


def test_adapters_are_resumed_and_frozen_weights_are_not_checkpointed(whole: Whole, play: Play, tmp_path: Path) -> None:
    interrupted(play, tmp_path, "lora", "display.update", 3)
    (checkpoint,) = RunFolder(tmp_path).checkpoints.iterdir()
    kept = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all("lora_" in name or name in ("version", "policy.value.weight", "policy.value.bias") for name in kept)
    assert result(play(tmp_path, "lora")) == result(whole("lora"))


@pytest.mark.parametrize("kind", ["separate", "isolated"])
def test_the_parameters_of_each_role_are_resumed_too(whole: Whole, play: Play, tmp_path: Path, kind: str) -> None:
    interrupted(play, tmp_path, kind, "display.update", 3)
    assert result(play(tmp_path, kind)) == result(whole(kind))
    assert len(result(tmp_path)[-1]) == 2


def test_sampling_is_resumed_too(whole: Whole, play: Play, tmp_path: Path) -> None:
    """With groups that others took the place of, which are written too, and a KL term."""
    interrupted(play, tmp_path, "sampled", "display.update", 3)
    assert result(play(tmp_path, "sampled")) == result(whole("sampled"))
    lines = metrics(tmp_path)
    records = [json.loads(line) for line in RunFolder(tmp_path).episodes.read_text().splitlines()]
    groups = [{r["group"] for r in records if r["step"] == s["step"] and r.get("discarded")} for s in lines]
    assert [line["train/groups_discarded"] for line in lines] == [*map(len, groups)]
    assert sum(map(len, groups)) > 0
    played = [len({r["task"]["id"] for r in records if r["step"] == step}) for step in range(6)]
    tasks = len({r["task"]["id"] for r in records if r["phase"] == "train"})
    assert tasks < sum(played)  # pools played some again
    longest = [max(len(r["turns"]) for r in records if r["step"] == s and r["phase"] == "train") for s in range(1, 6)]
    assert longest[:4] == [1, 1, 2, 2]
    assert longest[4] > 2
    assert [line["env/episodes"] for line in lines] == [8 + 4 * len(discarded) for discarded in groups]
    assert lines[-1]["train/ref_kl"] > 0


def test_the_weights_of_a_step_ago_are_resumed_too(whole: Whole, play: Play, tmp_path: Path) -> None:
    """They play the first step after it: those that learn would say something else."""
    interrupted(play, tmp_path, "lagged", "display.update", 3)
    assert result(play(tmp_path, "lagged")) == result(whole("lagged"))
    place = "calls/step-000003.safetensors"
    assert (tmp_path / place).read_bytes() == (whole("lagged") / place).read_bytes()
    kept = load_file(tmp_path / place)
    torch.testing.assert_close(kept["recomputed"], kept["logprobs"], atol=1e-4, rtol=0)
    moved = [line["train/kl"] for line in metrics(tmp_path)]
    assert min(moved[1:]) > 1e-5, "else any weights would do"


def test_what_is_played_meanwhile_is_resumed_too(whole: Whole, play: Play, tmp_path: Path) -> None:
    """The step after a checkpoint, which was being played when the run ended, is played again."""
    interrupted(play, tmp_path, "ahead", "display.update", 3)
    assert result(play(tmp_path, "ahead")) == result(whole("ahead"))
    lines = [json.loads(line) for line in RunFolder(tmp_path).metrics.read_text().splitlines()]
    assert [line["seconds/ahead"] > 0 for line in lines] == [False, True, False, True, True]


def test_a_run_that_stops_by_itself_stops_there_when_interrupted_too(whole: Whole, play: Play, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert 2 <= len(metrics(whole("sft"))) < 5
    interrupted(play, folder, "sft", "evaluated", 2)
    assert result(play(folder, "sft")) == result(whole("sft"))


def test_interrupted_again_and_again(whole: Whole, play: Play, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for count in (3, 1, 2, 2):
        interrupted(play, folder, "grpo", "display.update", count)
    assert result(play(folder, "grpo")) == result(whole("grpo"))


def test_an_incomplete_checkpoint_is_skipped(whole: Whole, play: Play, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    interrupted(play, folder, "grpo", "display.update", 4)
    held = RunFolder(folder).checkpoints
    assert [path.name for path in held.iterdir()] == ["step-000002.ckpt"]
    (held / "step-000004.draft").write_bytes((held / "step-000002.ckpt").read_bytes()[:100])
    assert result(play(folder, "grpo")) == result(whole("grpo"))


@pytest.mark.slow
def test_kill_9_at_random_moments(warm: Path, tmp_path: Path) -> None:
    """Whole processes: what they leave behind is what the system leaves of them."""
    command = [sys.executable, "-m", "pilotrl", *SMALL, *KINDS["grpo"], f"model.path={warm}", "train.steps=12"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    draw = random.Random(0)

    def start(folder: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, f"hydra.run.dir={folder}"], cwd=tmp_path, env=environment)

    assert start("whole").wait(200) == 0
    for _ in range(5):
        process, lines = start("killed"), RunFolder(tmp_path / "killed").metrics
        while process.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n") >= 1):
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start("killed").wait(200) == 0
    assert result(tmp_path / "killed") == result(tmp_path / "whole")

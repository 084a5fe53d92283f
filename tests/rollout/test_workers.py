"""Rollout workers: the same episodes and errors as in one process, and no worker outlives the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from pilotrl.cli.compose import composed_job, parse
from pilotrl.engine.local import LocalEngine
from pilotrl.envs import load
from pilotrl.envs.toy import ToyEnv
from pilotrl.models import policy
from pilotrl.rollout import workers
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.rollout.workers import run_episodes_in_processes
from pilotrl.runs import setup
from pilotrl.types import Episode, Reply, Task, UserError

KEY = (1, "train", 0)
"""With another one a draw may fall so close to the edge between two tokens that rounding decides."""
END = 1


def make_env() -> Any:
    return load("toy", split="train")


def specs(agent_spec: AgentSpec, count: int = 20) -> list[EpisodeSpec]:
    return [
        EpisodeSpec(Task("toy", name, "train", 0), g // 2, g % 2, agent_spec)
        for g, name in enumerate(make_env().tasks[:count])
    ]


def said(episodes: list[Episode]) -> list[Any]:
    return [(e.group, e.sample, e.task.id, e.outcome, [call.ids for call in e.calls]) for e in episodes]


def test_episodes_do_not_depend_on_the_number_of_workers(agent_spec: AgentSpec, model: Any) -> None:
    alone = run_episodes(specs(agent_spec), make_env, LocalEngine(model=model, end=END, slots=8), KEY)
    over: list[Episode] = []
    engine = LocalEngine(model=model, end=END, slots=8)
    shared = run_episodes_in_processes(specs(agent_spec), make_env, engine, KEY, over.append, workers=2)
    assert said(shared) == said(alone)
    assert Counter(map(id, over)) == Counter(map(id, shared)), "every episode is reported once, as it is returned"


def test_what_is_made_of_the_weights_is_made_before_processes_are_forked(agent_spec: AgentSpec, model: Any) -> None:
    class Taking(LocalEngine):
        made: list[int]

        def take(self, version: int) -> None:
            self.made.append(os.getpid())

        def step(self) -> list[Reply]:
            assert self.made == [os.getppid(), os.getpid()]
            return super().step()

    engine = Taking(model=model, end=END, slots=8)
    engine.made = []
    run_episodes_in_processes(specs(agent_spec), make_env, engine, KEY, lambda episode: None, workers=2)
    assert engine.made == [os.getpid()]


def test_workers_are_used_only_while_the_policy_is_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer moves the policy to an accelerator after the data source was built; nothing may fork then."""
    train_setup = setup.TrainSetup.of(composed_job(parse([]), ["env=toy"]).config, tmp_path)
    monkeypatch.setattr(setup, "run_episodes_in_processes", lambda *given, workers: "apart")
    monkeypatch.setattr(setup, "run_episodes", lambda *given: "here")
    told = train_setup.run_episodes
    assert told() == "apart"
    train_setup.policy.to("meta")
    assert told() == "here"


def test_sessions_of_servers_are_not_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is killed could not give them back."""
    line = ["env=agentgym", "env.url=http://127.0.0.1:9", "stage.planner=policy"]
    train_setup = setup.TrainSetup.of(composed_job(parse([]), line).config, tmp_path)
    monkeypatch.setattr(setup, "run_episodes", lambda *given: "here")
    assert train_setup.run_episodes() == "here"


def test_few_episodes_start_no_worker(agent_spec: AgentSpec, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_start", None)
    engine = LocalEngine(model=model, end=END, slots=8)
    assert (
        len(run_episodes_in_processes(specs(agent_spec, 15), make_env, engine, KEY, lambda episode: None, workers=4))
        == 15
    )


def test_a_group_runs_in_one_worker(agent_spec: AgentSpec, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its episodes share a prefix, whose keys and values they reuse from each other."""
    shares: list[list[EpisodeSpec]] = []
    monkeypatch.setattr(workers, "_start", lambda share, *given: shares.append(list(share)) or (None, None))
    monkeypatch.setattr(workers, "_receive", lambda pipes: iter(()))
    with pytest.raises((KeyError, AttributeError)):  # nobody plays
        run_episodes_in_processes(
            specs(agent_spec, 18),
            make_env,
            LocalEngine(model=model, end=END, slots=8),
            KEY,
            lambda episode: None,
            workers=2,
        )
    groups = [{spec.group for spec in share} for share in shares]
    assert [len(each) for each in groups] == [5, 4]
    assert not groups[0] & groups[1]


class Dear(ToyEnv):
    """Raises a user error."""

    def reset(self, **given: Any) -> Any:
        raise UserError("env=dear: costs money; pay")


class Deadly(ToyEnv):
    def reset(self, **given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("world", "error", "says"),
    [(Dear, UserError, "^env=dear: costs money"), (Deadly, RuntimeError, "ended with exit code -9")],
)
def test_what_ends_a_worker_ends_the_rollout(
    agent_spec: AgentSpec, model: Any, world: Any, error: Any, says: str
) -> None:
    def make() -> Any:
        return world(split="train", max_turns=9, seed=0)

    with pytest.raises(error, match=says):
        run_episodes_in_processes(
            specs(agent_spec), make, LocalEngine(model=model, end=END, slots=8), KEY, lambda episode: None, workers=2
        )


SLEEPERS = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from pilotrl.models import policy
from pilotrl.rollout import workers
def sleep(*given): Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(600)
workers.run_episodes = sleep
specs = [SimpleNamespace(group=i, agent=SimpleNamespace(version=0)) for i in range(16)]
workers.run_episodes_in_processes(specs, None, SimpleNamespace(take=print), (), None, workers=2)
"""


def test_workers_end_with_the_run(tmp_path: Path) -> None:
    """Otherwise they would hold the lock on its folder, and it could not be resumed."""
    run = subprocess.Popen([sys.executable, "-c", SLEEPERS, str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(names := os.listdir(tmp_path)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.kill()
    run.wait()
    while any(Path(f"/proc/{name}").exists() for name in names):
        assert time.monotonic() < deadline, "still alive"
        time.sleep(0.05)


def test_a_worker_samples_the_same_with_a_merged_adapter(agent_spec: AgentSpec, tiny: Path) -> None:
    model = policy.load_model(str(tiny), "float32", False, 4, 8.0, ["q_proj", "v_proj", "down_proj"])
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    engine = LocalEngine(model=model, end=END, slots=8)
    apart = run_episodes(specs(agent_spec, 6), make_env, engine, KEY)
    engine.settle()
    merged = run_episodes(specs(agent_spec, 6), make_env, engine, KEY)
    assert all(module.merged for module in model.modules() if isinstance(module, LoraLayer))
    assert said(merged) == said(apart)
    for one, other in zip(merged, apart, strict=True):
        assert [p for c in one.calls for p in c.logprobs] == pytest.approx(
            [p for c in other.calls for p in c.logprobs], abs=1e-4
        )

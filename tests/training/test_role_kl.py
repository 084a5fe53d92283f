"""Drift is the KL it is called, for each role, and exactly 0 where nothing has moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pilotrl.engine.local import LocalEngine
from pilotrl.envs import load
from pilotrl.models import policy
from pilotrl.models.policy import Policy
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.training.role_kl import Probe
from pilotrl.types import Call, Episode, Task

HEAT = 0.7


def fresh(tiny: Path) -> Policy:
    return Policy(policy.load_model(str(tiny), "float32"), critic=False)


def episodes_of(actor: Policy, agent_spec: AgentSpec) -> list[Episode]:
    """By the policy's own plans."""
    env = load("toy", split="train")
    own = replace(agent_spec, temperature=HEAT, max_tokens={"planner": 12, "executor": 8})
    specs = [EpisodeSpec(Task("toy", name, "train", 0), i, 0, own) for i, name in enumerate(env.tasks[:4])]
    return run_episodes(
        specs,
        lambda: load("toy", split="train"),
        LocalEngine(model=actor.model, end=agent_spec.chat.end, slots=4),
        ("drift",),
    )


def moved(tiny: Path, scale: float) -> Policy:
    """The same weights with noise on them."""
    other = fresh(tiny)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += scale * parameter.std() * torch.randn_like(parameter)
    return other


@torch.no_grad()
def distributions(actor: Policy, call: Call) -> Tensor:
    """[reply, vocabulary] log-probabilities of a call alone, by a plain forward pass."""
    logits = actor.model(torch.tensor([call.prompt + call.ids]), use_cache=False).logits
    logprobs: Tensor = (logits[0, len(call.prompt) - 1 : -1] / HEAT).log_softmax(-1).double()
    return logprobs


@pytest.mark.parametrize("micro_tokens", [64, 4096])
def test_drift_is_the_one_computed_by_hand(tiny: Path, agent_spec: AgentSpec, micro_tokens: int) -> None:
    actor, now = fresh(tiny), moved(tiny, 0.1)
    episodes = episodes_of(actor, agent_spec)
    drift = Probe.of(episodes, actor, HEAT, micro_tokens).drift(now)
    for role in ("planner", "executor"):
        k3: list[float] = []
        for call in (call for episode in episodes for call in episode.calls if call.role == role):
            old, new = (
                distributions(one, call).gather(1, torch.tensor(call.ids)[:, None])[:, 0] for one in (actor, now)
            )
            k3 += ((new - old).exp() - 1 - (new - old)).tolist()
        assert drift[role] == pytest.approx(sum(k3) / len(k3), rel=1e-4)
        assert drift[role] > 1e-3


def test_drift_estimates_the_divergence(tiny: Path, agent_spec: AgentSpec) -> None:
    """KL(initial || current), exact over the vocabulary, in the same states: an estimate from some hundred tokens is near."""
    actor, now = fresh(tiny), moved(tiny, 0.1)
    episodes = episodes_of(actor, agent_spec)
    drift = Probe.of(episodes, actor, HEAT, 512).drift(now)
    for role in ("planner", "executor"):
        exact: list[float] = []
        for call in (call for episode in episodes for call in episode.calls if call.role == role):
            old, new = distributions(actor, call), distributions(now, call)
            exact += nn.functional.kl_div(new, old, log_target=True, reduction="none").sum(-1).tolist()
        assert drift[role] == pytest.approx(sum(exact) / len(exact), rel=0.35)


def test_weights_that_have_not_moved_have_not_drifted(tiny: Path, agent_spec: AgentSpec) -> None:
    actor = fresh(tiny)
    probe = Probe.of(episodes_of(actor, agent_spec), actor, HEAT, 512)
    assert probe.drift(fresh(tiny)) == {"planner": 0.0, "executor": 0.0}
    assert min(probe.drift(moved(tiny, 0.01)).values()) > 0


def test_without_plans_only_the_executor_drifts(tiny: Path, agent_spec: AgentSpec) -> None:
    actor = fresh(tiny)
    probe = Probe.of(episodes_of(actor, replace(agent_spec, plans="never")), actor, HEAT, 512)
    assert list(probe.drift(moved(tiny, 0.1))) == ["executor"]


def test_where_nobody_said_anything_nothing_drifts(tiny: Path) -> None:
    """Every world was out of order, say."""
    broken = [Episode(Task("toy", "toy-train-0", "train", 0), i, 0, "", outcome="broken") for i in range(3)]
    assert Probe.of(broken, fresh(tiny), HEAT, 512).drift(moved(tiny, 0.1)) == {}


def test_training_the_executor_moves_the_planner_too(training: Callable[..., Any], agent_spec: AgentSpec) -> None:
    """Masking its tokens does not freeze what shares its weights."""
    run = training(steps=2)
    probe = Probe.of(episodes_of(run.policy, agent_spec), run.policy, HEAT, 512)
    run.fit()
    assert probe.drift(run.policy)["planner"] > 1e-3

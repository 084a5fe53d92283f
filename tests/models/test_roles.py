"""Separate and isolated roles: training one leaves the other's parameters as they are, and each samples with its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pilotrl import evaluate
from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.validate import check_lora, check_roles
from pilotrl.models import model_info, policy
from pilotrl.models.policy import ROLES, Policy, learned, weights_sha256
from pilotrl.runs import run as running
from pilotrl.store.run_folder import RunFolder
from pilotrl.training.batch import rows_of
from pilotrl.training.role_kl import Probe
from pilotrl.types import Call, Episode, UserError
from tests.conftest import TARGETS, Training

Make = Callable[..., Training]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 30, 31]])
OWN = {"teacher_plans": False, "max_tokens": {"planner": 12, "executor": 8}}


def stir(module: nn.Module) -> None:
    """Gives each role's parameters different random values."""
    torch.manual_seed(3)
    for name, tensor in learned(module).items():
        if any(role in name.split(".") for role in ROLES):
            tensor += 0.2 * tensor.std().nan_to_num().clamp(min=0.5) * torch.randn_like(tensor)


def mine(module: nn.Module, role: str) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learned(module).items() if role in name.split(".")}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert list(one) == list(other) != []
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def own_plans(run: Training) -> list[Episode]:
    """Calls of both roles before any training, from the data source."""
    kept = run.source.agent_specs
    run.source.agent_specs = [replace(agent_spec, **OWN) for agent_spec in kept]  # type: ignore[arg-type]
    episodes = run.source.batch(0).episodes
    run.source.agent_specs = kept
    return episodes


def rewarded(run: Training) -> Training:
    """Rewards that differ within each group, whatever the policy does."""

    def score(episodes: Sequence[Episode]) -> None:
        for i, episode in enumerate(episodes):
            episode.reward = i % 3 / 2

    run.graded(score)
    return run


def said(call: Call, model: Any) -> Tensor:
    """[reply] log-probabilities, by a plain forward pass."""
    logits = model(torch.tensor([call.prompt + call.ids]), use_cache=False).logits[0, len(call.prompt) - 1 : -1]
    found: Tensor = logits.log_softmax(-1).gather(1, torch.tensor(call.ids)[:, None])[:, 0]
    return found


@pytest.mark.parametrize("roles", ["separate", "isolated"])
@pytest.mark.parametrize("trained", ROLES)
def test_the_other_role_does_not_move_at_all(training: Make, roles: str, trained: str) -> None:
    """Weight decay is on, and would move whatever the optimizer holds."""
    run = rewarded(training(steps=2, minibatches=2, roles=roles, trains=[trained], agent_spec=OWN))
    stir(run.policy)
    (other,) = {*ROLES} - {trained}
    probe = Probe.of(own_plans(run), run.policy, 1.0, 512)
    kept, changed, update = mine(run.policy, other), mine(run.policy, trained), run.module.update

    def watched(step: int) -> float:
        assert all(p.grad is None for name, p in run.policy.named_parameters() if other in name.split("."))
        return update(step)

    run.module.update = watched  # type: ignore[method-assign]
    run.fit()
    drift = probe.drift(run.policy)
    assert drift[other] == 0.0
    assert drift[trained] > 1e-4
    assert equal(mine(run.policy, other), kept)
    assert not equal(mine(run.policy, trained), changed)


@pytest.mark.parametrize("roles", ["separate", "isolated"])
def test_each_role_learns_from_its_own_demonstrations(training: Make, roles: str) -> None:
    """Whichever of them spoke last before."""
    for last in ROLES:
        run = training(
            "sft",
            steps=1,
            roles=roles,
            trains=ROLES,
            agent_spec={"teacher_plans": True, "demonstrates": True},
            group_size=1,
        )
        before = [mine(run.policy, role) for role in ROLES]
        run.policy.for_role(last)
        run.fit()
        assert not any(equal(mine(run.policy, role), old) for role, old in zip(ROLES, before, strict=True))


def test_what_is_frozen_for_both_stays(training: Make) -> None:
    run = rewarded(training(steps=2, roles="separate", trains=ROLES, agent_spec=OWN))
    base = {name: p.clone() for name, p in run.policy.named_parameters() if "lora_" not in name}
    before = [mine(run.policy, role) for role in ROLES]
    run.fit()
    assert all(torch.equal(p, base[name]) for name, p in run.policy.named_parameters() if name in base)
    assert not any(equal(mine(run.policy, role), old) for role, old in zip(ROLES, before, strict=True))


@pytest.mark.parametrize("roles", ["separate", "isolated"])
def test_each_role_samples_from_its_own_saved_weights(
    training: Make, tokenizer: Any, tmp_path: Path, roles: str
) -> None:
    """Sampled log-probabilities, those that are learned from, and those of plain peft and transformers are the same."""
    run = training(roles=roles, trains=ROLES, agent_spec=OWN)
    stir(run.policy)
    policy.save(run.policy.model, tokenizer, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(policy.base_of(str(tmp_path)))
    if roles == "separate":
        plain = PeftModel.from_pretrained(base, tmp_path / "planner", adapter_name="planner")
        plain.load_adapter(tmp_path / "executor", "executor")
    batch = run.source.batch(0)
    heard = set()
    for call in (call for call in batch.trained if call):
        if roles == "separate":
            plain.set_adapter(call.role)
        model = plain if roles == "separate" else AutoModelForCausalLM.from_pretrained(tmp_path / call.role)
        torch.testing.assert_close(torch.tensor(call.logprobs), said(call, model.eval()), atol=1e-4, rtol=0)
        heard.add((call.role, call.adapter))
    assert heard == {(role, role) for role in ROLES}
    for micro_batch in batch.micro_batches(range(len(batch.episodes)), 512):
        torch.testing.assert_close(run.policy(micro_batch, 1.0).logprobs, micro_batch.logprobs, atol=1e-4, rtol=0)


def test_a_role_continues_its_own_row_past_calls_of_the_other(training: Make) -> None:
    run = training("ppo", roles="separate", trains=ROLES, agent_spec=OWN)
    batch = run.source.batch(0)
    for number, episode in enumerate(batch.episodes):
        rows = rows_of(episode.calls)
        assert [[call.adapter for call in row] for row in rows] == [
            ["planner"] * len(rows[0]),
            ["executor"] * len(rows[1]),
        ]
        assert len(rows[0]) + len(rows[1]) == len(episode.calls) > 2
        trained = [call for call, of in zip(batch.trained, batch.call_episode.tolist(), strict=True) if of == number]
        assert trained == [call for call in episode.calls if call.ids]  # in order of time, as credit is given
    for micro_batch in batch.micro_batches(range(len(batch.episodes)), 100_000):
        assert {batch.trained[i].adapter for i in micro_batch.call.tolist()} == {micro_batch.adapter}  # type: ignore[union-attr]


def logprobs(actor: Policy, role: str) -> Tensor:
    found: Tensor = actor.for_role(role)(IDS, use_cache=False).logits.log_softmax(-1)
    return found


def load(path: Path, roles: str) -> Policy:
    rank = None if roles == "isolated" else 4
    return Policy(policy.load_model(str(path), "float32", False, rank, 8.0, TARGETS, roles), critic=False)


def test_both_roles_start_from_the_shared_weights(tiny: Path, tokenizer: Any, tmp_path: Path) -> None:
    shared = policy.load_model(str(tiny), "float32", False, 4, 8.0, TARGETS)
    torch.manual_seed(3)
    for parameter in shared.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    policy.save(shared, tokenizer, tmp_path)
    for roles in ("separate", "isolated"):
        for role in ROLES:
            expected = shared(IDS, use_cache=False).logits.log_softmax(-1)
            torch.testing.assert_close(logprobs(load(tmp_path, roles), role), expected, atol=1e-5, rtol=0)


def test_each_role_starts_from_its_own_weights_of_the_parent(tiny: Path, tokenizer: Any, tmp_path: Path) -> None:
    one = load(tiny, "separate")
    stir(one)
    policy.save(one.model, tokenizer, tmp_path)
    assert sorted(p.parent.name for p in tmp_path.rglob("*.safetensors")) == ["executor", "planner"]
    assert weights_sha256(load(tmp_path, "separate")) == weights_sha256(one)
    two = load(tmp_path, "isolated")
    for role in ROLES:
        torch.testing.assert_close(logprobs(two, role), logprobs(one, role), atol=1e-5, rtol=0)
    policy.save(two.model, tokenizer, tmp_path / "two")
    assert weights_sha256(load(tmp_path / "two", "isolated")) == weights_sha256(two)
    assert not torch.allclose(logprobs(two, "planner"), logprobs(two, "executor"), atol=1e-2)


def test_the_hash_is_of_both_roles(tiny: Path) -> None:
    for roles in ("separate", "isolated"):
        for trained in ROLES:
            one = load(tiny, roles)
            one.set_trainable([trained])
            hashes = [weights_sha256(one)]
            for role in ROLES:
                next(iter(mine(one, role)))
                for name, tensor in learned(one).items():
                    if role in name.split("."):
                        tensor += 1
                        break
                hashes.append(weights_sha256(one))
            assert len(set(hashes)) == 3


def test_memory_counts_what_each_role_has(tiny: Path) -> None:
    def memory(rank: int | None, sets: int, learning: int) -> model_info.Memory:
        config = model_info.config_of(str(tiny))
        how = {"row": 128, "trained": 0.5, "slots": 4, "length": 256, "sets": sets, "learning": learning}
        return model_info.memory(config, "float32", False, rank, 8.0, TARGETS, **how)

    for rank, roles in ((4, "separate"), (None, "isolated")):
        actor, one, two = load(tiny, roles), memory(rank, 1, 1), memory(rank, 2, 1)
        assert two.weights == sum(p.numel() * p.element_size() for p in actor.parameters())
        assert (two.gradients, two.optimizer) == (one.gradients, one.optimizer)
        planner = [p for name, p in actor.named_parameters() if "planner" in name.split(".")]
        assert two.gradients == sum(p.numel() * p.element_size() for p in planner)
        assert two.cache == 2 * one.cache
        assert memory(rank, 2, 2).optimizer == 2 * one.optimizer


SMALL = ("env=toy", "train.steps=2", "train.tasks=2", "train.group_size=4", "train.micro_tokens=512", "drift.tasks=2")
SMALL += ("model.max_length=192", "model.max_plan_tokens=12", "model.max_action_tokens=8", "trainer.threads=1")
SMALL += ("panel.tasks=3", "panel.samples=1", "panel.greedy=false", "tracking.uri=off")


def config_of(*overrides: str) -> Any:
    return composed_job(parse([]), [*SMALL, *overrides]).config


def start(folder: Path, *overrides: str) -> RunFolder:
    """A run, with the configuration beside it that Hydra would have written."""
    run = RunFolder(folder)
    run.config.parent.mkdir(parents=True)
    config = config_of(*overrides)
    OmegaConf.save(config, run.config)
    running.run(config, folder)
    return run


def test_a_chain_of_stages_and_its_evaluation(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "learning_curve", lambda *given: None)
    how = ("algorithm=ppo", "train.weight_decay=0.1", "model.roles=separate", "model.lora.rank=4")
    how += (f"model.path={warm}", f"root={tmp_path}")
    first = start(tmp_path / "first", *how)
    second = start(tmp_path / "second", *how, "stage.planner=policy", "stage.trains=[planner]", f"parent={first}")
    drift = [json.loads(run.summary.read_text())["drift"] for run in (first, second)]
    assert drift[0]["planner"] == drift[1]["executor"] == 0.0
    saved = {
        role: [(run.policy / role / "adapter_model.safetensors").read_bytes() for run in (first, second)]
        for role in ROLES
    }
    assert saved["executor"][0] == saved["executor"][1]
    assert saved["planner"][0] != saved["planner"][1]  # by weight decay; a critic is updated even where all went alike
    assert evaluate.main([f"checkpoint={second}"]) == 0
    (found,) = tmp_path.glob("*/*-evaluate-toy/evaluation.json")
    measured = [json.loads(path.read_text())["eval"] for path in (found, second.summary)]
    assert measured[0] == measured[1]
    assert evaluate.main([f"checkpoint={second}", "model.roles=shared"]) == 2
    assert "has roles that are separate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("theirs", "ours", "complaint"),
    [
        (None, "model.roles=separate", "model.roles=separate: is an adapter for each role; give them a rank"),
        (None, "model.roles=isolated model.lora.rank=4", "model.lora.rank=4: isolated roles are two whole models"),
        ("separate", "model.roles=shared model.lora.rank=4", "has roles that are separate; set model.roles=separate"),
        ("isolated", "model.roles=shared", "has roles that are isolated; set model.roles=isolated"),
        ("isolated", "model.roles=separate model.lora.rank=4", "has roles that are isolated; set model.roles=isolated"),
        ("shared", "model.roles=separate model.lora.rank=4", None),
        ("separate", "model.roles=separate model.lora.rank=4", None),
        ("separate", "model.roles=separate model.lora.rank=8", "model.lora.rank=8: the adapters of parent="),
        ("shared", "model.roles=isolated", None),
        ("separate", "model.roles=isolated", None),
    ],
)
def test_invalid_settings_of_roles_are_refused(
    tmp_path: Path, theirs: str | None, ours: str, complaint: str | None
) -> None:
    if theirs:
        parent = RunFolder(tmp_path / "parent")
        parent.config.parent.mkdir(parents=True)
        OmegaConf.save(config_of(f"model.roles={theirs}"), parent.config)
        (parent.policy / "planner").mkdir(parents=True)
        adapter = {"r": 4, "lora_alpha": (lora := config_of().model.lora).alpha, "target_modules": list(lora.targets)}
        if theirs == "separate":
            (parent.policy / "planner" / "adapter_config.json").write_text(json.dumps(adapter))
    overrides = ["model.lora.rank=null", *ours.split(), *([f"parent={parent}"] if theirs else [])]

    def check() -> None:
        config = config_of(*overrides)
        check_lora(config)
        check_roles(config)

    if complaint is None:
        check()
    else:
        with pytest.raises(UserError) as refusal:
            check()
        assert complaint in str(refusal.value)

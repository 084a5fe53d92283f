"""A lag of one step: who plays a step follows from its number, ratios are to who played, and evaluations have no lag."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pilotrl.cli.compose import composed_job, parse
from pilotrl.models import policy
from pilotrl.models.policy import Policy, learned
from pilotrl.rollout.workers import run_episodes_in_processes
from pilotrl.runs import run as running
from pilotrl.training.batch import Batch
from tests.conftest import Training
from tests.engine.copying_engine import CopyingEngine
from tests.runs.test_resume import SMALL, result

Make = Callable[..., Training]
LAGGED: dict[str, Any] = {"lag": 1, "steps": 4}


def said_by(actor: Policy, batch: Batch) -> Tensor:
    """[N] log-probabilities of the trained tokens."""
    with torch.no_grad():
        return torch.cat([actor(batch.micro_batch([row]), 1.0).logprobs for row in range(len(batch.rows))])


def recorded(batch: Batch) -> Tensor:
    """[N] as sampled, in that order."""
    return torch.cat([batch.micro_batch([row]).logprobs for row in range(len(batch.rows))])


def watched(run: Training) -> tuple[list[Policy], list[Batch]]:
    """The policies of all versions, and the batches of all steps, of a run that is made here."""
    learn, versions, batches = run.module.training_step, list[Policy](), list[Batch]()

    def training_step(batch: Batch, batch_idx: int) -> None:
        versions.append(deepcopy(run.policy))
        batches.append(batch)
        learn(batch, batch_idx)

    run.module.training_step = training_step  # type: ignore[method-assign]
    run.fit()
    return versions, batches


@pytest.mark.parametrize("roles", ["shared", "separate", "isolated"])
def test_a_step_is_played_by_the_weights_of_a_step_ago(training: Make, roles: str) -> None:
    versions, batches = watched(training(**LAGGED, roles=roles, trains=["planner", "executor"], minibatches=2))
    for step, batch in enumerate(batches):
        before = max(0, step - 1)
        assert {call.version for episode in batch.episodes for call in episode.calls} == {before} == {batch.version}
        for version, actor in enumerate(versions):
            apart = (said_by(actor, batch) - recorded(batch)).abs().max()
            assert (apart < 1e-4) == (version == before), (step, version, apart)


def test_forks_play_with_the_weights_of_a_step_ago_too(training: Make) -> None:
    """And leave this process those that learn."""
    run = training(**LAGGED, tasks=4, group_size=4)
    with torch.no_grad():
        for parameter in run.policy.parameters():
            parameter *= 1.1
    now, alone = run.weights(), run.source.batch(0)
    run.source.run_episodes = run.module.lagged.wrapped(partial(run_episodes_in_processes, workers=2))
    forked = run.source.batch(0)
    assert [call.ids for e in forked.episodes for call in e.calls] == [c.ids for e in alone.episodes for c in e.calls]
    assert (said_by(run.policy, forked) - recorded(forked)).abs().max() > 1e-3
    assert torch.equal(run.weights(), now)


def test_the_first_update_of_a_step_is_off_policy_but_for_the_first_step(training: Make) -> None:
    run, first = training(**LAGGED, minibatches=2), dict[int, float]()
    scored = run.module.scored

    def noted(*given: Any, **counts: float) -> Any:
        found = scored(*given, **counts)
        first.setdefault(int(run.module.version), float((found.logprobs.detach() - found.old_logprobs).abs().max()))
        return found

    run.module.scored = noted  # type: ignore[method-assign]
    run.fit()
    assert sorted(first) == [0, 1, 2, 3]
    assert first[0] < 1e-4
    assert min(first[step] for step in (1, 2, 3)) > 1e-3


def test_a_batch_of_any_other_weights_is_refused(training: Make) -> None:
    run = training(**LAGGED)
    run.source.lag = 0
    with pytest.raises(RuntimeError, match="weights of version 1, these are version 1"):
        run.fit()


def test_without_a_lag_nothing_is_kept_and_nothing_wrapped(training: Make) -> None:
    run, lagged = training(), training(**LAGGED)
    assert not [name for name in learned(run.module) if name.startswith("lagged")]
    assert run.module.lagged.wrapped(said_by) is said_by
    kept = [tensor for name, tensor in learned(lagged.module).items() if name.startswith("lagged")]
    assert sum(tensor.numel() for tensor in kept) == len(lagged.weights())


def copying(run: Training, shift: float = 0.0) -> Training:
    """The run plays with a copy of the weights, which finds each token it samples less likely by `shift` than it is."""
    end = run.source.agent_specs[0].chat.end
    run.source.engine = CopyingEngine(model=run.policy, end=end, folder=Path(), rank=0, slots=16)
    run.module.copied, play = True, run.source.batch

    def shifted(step: int) -> Batch:
        batch = play(step)
        batch.logprobs = batch.logprobs - shift
        return batch

    run.source.batch = shifted  # type: ignore[method-assign]
    return run


def test_an_engine_is_compared_with_the_learner_whose_weights_it_has(training: Make) -> None:
    run, found = copying(training(**LAGGED)), list[dict[str, float]]()
    learn = run.module.training_step

    def training_step(batch: Batch, batch_idx: int) -> None:
        learn(batch, batch_idx)
        found.append(run.module.metrics)

    run.module.training_step = training_step  # type: ignore[method-assign]
    run.fit()
    assert [metrics["engine/largest"] < 1e-4 for metrics in found] == [True] * 4
    assert [metrics["train/kl"] > 1e-6 for metrics in found] == [False, True, True, True]


def test_a_correction_is_for_the_engine_and_not_for_the_lag(training: Make) -> None:
    """A step whose engine is equally far from the learner for each token has a gradient that is so much longer, and ratios as
    if the engine were exact. By the present weights, which have moved, tokens would have factors of their own."""
    found = []
    for correction, shift in (("none", 0.0), ("tis", 0.4)):
        run = copying(training(lag=1, steps=2, minibatches=1, options={"correction": correction}), shift)
        run.module.version += 1
        for held in run.module.lagged.buffers():
            held *= 1.1
        found.append(run.fit().module.metrics)
    exact, corrected = found
    assert corrected["train/grad_norm"] == pytest.approx(exp(0.4) * exact["train/grad_norm"], rel=1e-4)
    assert corrected["train/kl"] == pytest.approx(exact["train/kl"], rel=1e-3)
    assert exact["train/kl"] > 1e-3
    assert (exact["engine/largest"], corrected["engine/largest"]) == pytest.approx((0.0, 0.4), abs=1e-4)


class Noting(CopyingEngine):
    """Notes which weights it is told to take, and as which version."""

    taken: list[tuple[int, str]]

    def take(self, version: int) -> None:
        super().take(version)
        self.taken.append((version, policy.weights_sha256(self.policy)))


def test_a_version_is_always_the_same_weights_and_evaluations_are_of_the_present_ones(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So an engine that sends no version twice, as vLLM's, has those that it is to have."""
    taken: list[tuple[int, str]] = []
    monkeypatch.setattr(Noting, "taken", taken, raising=False)
    monkeypatch.setattr(running, "learning_curve", lambda *given: None)
    engine = (f"engine._target_={Noting.__module__}.Noting", "engine.name=noting", "engine.slots=16")
    words = [*SMALL, "stage=adherence", f"model.path={warm}", *engine, "train.lag=1", "train.steps=3", "train.lr=1e-2"]
    running.run(composed_job(parse([]), words).config, tmp_path)
    versions = [version for version, _ in taken]
    (before, after), (summary, *_) = (versions[0], versions[-1]), result(tmp_path)
    assert (before, after, [*dict.fromkeys(versions)]) == (0, 3, [0, 1, 3])
    assert len({*taken}) == len({sha for _, sha in taken}) == 3
    assert dict(taken)[3] == summary["weights_sha256"]

"""A step is played while the one before is learned from, and nothing but the clock can tell."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

import pytest

from pilotrl.rollout.curriculum import Pools
from pilotrl.training.ahead import Ahead
from pilotrl.training.batch import Batch
from pilotrl.types import Reply, RunFailed
from tests.conftest import Training
from tests.engine.copying_engine import CopyingEngine

Make = Callable[..., Training]
LONG = 60.0
"""Seconds to wait for what comes at once, if it comes."""


def ahead(run: Training) -> Training:
    """The run plays with a copy of the weights, each step but the first one while it learns from the one before."""
    end = run.source.agent_specs[0].chat.end
    run.source.engine = CopyingEngine(model=run.policy, end=end, folder=Path(), rank=0, slots=16)
    run.source.ahead = Ahead()
    return run


def played(run: Training) -> list[list[tuple[int, tuple[int, ...]]]]:
    """Version and tokens of all calls of each step, of a run that is made here."""
    calls, play = list[list[tuple[int, tuple[int, ...]]]](), run.source.batch

    def batch(step: int) -> Batch:
        made = play(step)
        everything = [*made.episodes, *made.discarded]
        calls.append([(call.version, tuple(call.ids)) for episode in everything for call in episode.calls])
        return made

    run.source.batch = batch  # type: ignore[method-assign]
    run.fit()
    return calls


@pytest.mark.parametrize(
    "changes",
    [{}, {"minibatches": 2}, {"resample": 2}, {"resample": 1, "pools": Pools(0.5, 0.5)}],
    ids=["one update", "two", "resampled", "pools"],
)
def test_it_is_the_run_that_plays_afterwards(training: Make, changes: dict[str, Any]) -> None:
    meanwhile, afterwards = (ahead(training(lag=1, steps=4, **deepcopy(changes))) for _ in range(2))
    afterwards.source.ahead = None
    assert played(meanwhile) == played(afterwards)
    assert meanwhile.weights().equal(afterwards.weights())


def test_a_step_is_played_while_the_one_before_is_learned_from(training: Make) -> None:
    """Neither goes on before the other has begun; and the weights, which learning changes, are taken before."""
    run, playing, learning = ahead(training(lag=1, steps=2)), Event(), Event()
    take, say, learn = run.source.engine.take, run.source.engine.step, run.module.training_step

    def taken(version: int) -> None:
        assert current_thread() is main_thread()
        take(version)

    def step() -> list[Reply]:
        if current_thread() is not main_thread():
            playing.set()
            assert learning.wait(LONG)
        return say()

    def training_step(batch: Batch, batch_idx: int) -> None:
        learning.set()
        assert playing.wait(LONG)
        learn(batch, batch_idx)

    run.source.engine.take, run.source.engine.step = taken, step  # type: ignore[method-assign]
    run.module.training_step = training_step  # type: ignore[method-assign]
    assert run.fit().module.version == 2
    assert run.source.ahead
    assert run.source.counts(run.source.batch(1))["seconds/ahead"] == run.source.ahead.seconds > 0


def test_what_ends_playing_ends_the_run(training: Make) -> None:
    run = ahead(training(lag=1, steps=3))
    say = run.source.engine.step

    def step() -> list[Reply]:
        if current_thread() is not main_thread():
            raise RunFailed("the engine has ended")
        return say()

    run.source.engine.step = step  # type: ignore[method-assign]
    with pytest.raises(RunFailed, match="the engine has ended"):
        run.fit()
    assert run.module.version == 1


def test_a_run_that_stops_by_itself_leaves_the_engine_to_who_comes_next(training: Make) -> None:
    run = ahead(training(lag=1, steps=5))
    run.source.finished = lambda: bool(run.module.version == 2)
    run.fit()
    assert run.module.version == 2
    assert run.source.ahead
    assert run.source.ahead.begun is None
    assert 0 <= run.success() <= 1

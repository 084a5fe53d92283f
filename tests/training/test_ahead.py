"""A step is played while the one before is learned from, and nothing but the clock can tell."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from threading import Event, Semaphore, Timer, current_thread, main_thread
from typing import Any

import pytest

from pilotrl.cli.compose import composed_job, parse
from pilotrl.envs.toy import ToyEnv
from pilotrl.rollout import stopwatch
from pilotrl.rollout.curriculum import Pools
from pilotrl.runs.setup import TrainSetup
from pilotrl.training import ahead as ahead_module
from pilotrl.training.ahead import Ahead
from pilotrl.training.batch import Batch
from pilotrl.types import Episode, Reply, RunFailed, Task
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


def test_each_episode_that_ends_is_waited_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a deadline is one for an episode, as it is for a call of an environment where nothing is played meanwhile."""
    entered, phase, waited, noted = Semaphore(0), stopwatch.phase, Ahead(), list[Episode]()

    def play(specs: Any, make_env: Any, engine: Any, key: Any, on_done: Any, taken: bool) -> list[Episode]:
        assert taken
        for _ in range(3):
            assert entered.acquire(timeout=LONG)
            on_done(episode)
        return [episode] * 3

    def counted(name: stopwatch.Phase) -> Any:
        entered.release()
        return phase(name)

    episode = Episode(Task("toy", "t", "train", 0), 0, 0, "")
    monkeypatch.setattr(ahead_module, "run_episodes", play)
    monkeypatch.setattr(stopwatch, "phase", counted)
    waited.begin(([], lambda: None, None, (), noted.append))  # type: ignore[arg-type]
    assert waited.wait() == noted == [episode] * 3
    assert waited.wait() == []


def test_who_closes_it_waits_for_what_is_being_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments are closed there, and a process that ends would take their sessions with it."""
    ended, closed, one = Event(), Event(), Ahead()

    def play(*_: Any, **__: Any) -> list[Episode]:
        assert ended.wait(LONG)
        closed.set()
        return []

    monkeypatch.setattr(ahead_module, "run_episodes", play)
    one.begin(([], lambda: None, None, (), lambda _: None))  # type: ignore[arg-type]
    Timer(0.2, ended.set).start()
    one.close()
    assert closed.is_set()


@pytest.mark.parametrize("alone", [False, True])
def test_an_environment_for_the_main_thread_is_played_there(
    alone: bool, warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyEnv, "main_thread", alone, raising=False)
    engine = (f"engine._target_={CopyingEngine.__module__}.CopyingEngine", "engine.name=copying", "engine.slots=16")
    words = ["env=worlds", "env.trains=[toy,iqa]", "env.holds_out=[]", "stage=adherence", f"model.path={warm}", *engine]
    setup = TrainSetup.of(composed_job(parse([]), [*words, "train.lag=1"]).config, tmp_path)
    with closing(setup):
        assert (setup.sampling()["ahead"] is None) == alone

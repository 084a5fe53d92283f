"""Environments that are `concurrent`: their steps run side by side, the clock changes nothing, and all are closed in the end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import Info, concurrent, load
from pilotrl.envs.toy import COLORS, ToyEnv
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import ATTEMPTS, run_episodes
from pilotrl.types import Episode, Reply, Request, Task, UserError, WorldError

KEY = (0, "train", 0)
LONG = 60.0
"""Seconds after which what has to happen has not."""
NAMES = [name for name in load("toy", split="train").tasks if name.count("-") == 2]


class Beside(ToyEnv):
    """ToyEnv with something to do in every reset, step and close; by default nothing."""

    concurrent = True

    def __init__(self, enters: Callable[[Beside, str], None] = lambda env, call: None, max_turns: int = 8) -> None:
        super().__init__(split="train", max_turns=max_turns, seed=0)
        self.enters, self.task = enters, ""

    def reset(self, **given: Any) -> tuple[str, Info]:
        self.task = given["options"]["task"]
        self.enters(self, "reset")
        return super().reset(**given)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.enters(self, "step")
        return super().step(action)

    def close(self) -> None:
        self.enters(self, "close")


class Alone(Beside):
    concurrent = False


class Seeded(ScriptedPolicy):
    """Presses any button, or none; what it says, and its log-probabilities, depend on a request's seed only."""

    def __init__(self, spec: AgentSpec, slots: int = 64) -> None:
        super().__init__(spec.chat, lambda prompt: "", slots)
        self.asked: list[Request] = []

    def submit(self, request: Request) -> None:
        self.asked.append(request)
        super().submit(request)

    def _reply(self, request: Request) -> Reply:
        draw = Random(request.seed)
        ids = self.chat.reply(f"Action: {draw.choice([f'press[{draw.choice(COLORS)}]', *['wait'] * 9])}")
        return Reply(request.session, ids, [-draw.random() for _ in ids], "end")


def specs(agent_spec: AgentSpec, count: int) -> list[EpisodeSpec]:
    spec = replace(agent_spec, plans="never", max_length=100_000)
    return [EpisodeSpec(Task("toy", name, "train", 0), group, 0, spec) for group, name in enumerate(NAMES[:count])]


def test_every_episode_is_inside_reset_and_inside_step_at_once(agent_spec: AgentSpec) -> None:
    all_inside = threading.Barrier(16)

    def make() -> Beside:
        return Beside(lambda env, call: call == "close" or all_inside.wait(LONG), max_turns=3)  # type: ignore[func-returns-value]

    policy = ScriptedPolicy(agent_spec.chat, lambda prompt: "Action: wait", slots=16)
    before = threading.active_count()
    episodes = run_episodes(specs(agent_spec, 32), make, policy, KEY)
    assert [len(episode.turns) for episode in episodes] == [3] * 32
    assert threading.active_count() == before


def test_others_start_no_thread(agent_spec: AgentSpec) -> None:
    seen: set[tuple[threading.Thread, int]] = set()
    before = (threading.current_thread(), threading.active_count())
    run_episodes(
        specs(agent_spec, 4),
        lambda: Alone(lambda *_: seen.add((threading.current_thread(), threading.active_count()))),
        Seeded(agent_spec),
        KEY,
    )
    assert seen == {before}


@pytest.mark.parametrize("slots", [64, 10])
def test_the_clock_changes_no_episode_and_no_order(agent_spec: AgentSpec, slots: int) -> None:
    """64 episodes of up to eight turns, every seventh of which fails at its first attempt or two, or at all."""

    def played(kind: type[Beside], naps: Random, slots: int) -> tuple[list[Episode], Seeded]:
        tried = Counter[str]()

        def enters(env: Beside, call: str) -> None:
            if kind is Beside:
                time.sleep(naps.random() / 50)
            if call == "reset":
                tried[env.task] += 1
            number = NAMES.index(env.task)
            if call == "step" and number % 7 == 0 and tried[env.task] <= number % 4:
                raise WorldError("not yet")

        engine = Seeded(agent_spec, slots)
        return run_episodes(specs(agent_spec, 64), lambda: kind(enters), engine, KEY), engine

    serial, _ = played(Alone, Random(0), 1)
    once, engine = played(Beside, Random(1), slots)
    again, same = played(Beside, Random(2), slots)
    assert Counter(episode.outcome == "broken" for episode in serial) == {True: 3, False: 61}
    assert len({len(episode.turns) for episode in serial}) > 4
    assert once == again == serial
    assert engine.asked == same.asked, "in which order requests reach the engine"


class OneByOne(Seeded):
    """Generates one reply a step, and says what it has generated."""

    def __init__(self, spec: AgentSpec) -> None:
        super().__init__(spec)
        self.done = {0: threading.Event(), 1: threading.Event()}

    def step(self) -> list[Reply]:
        if not self.waiting:
            return []
        reply = self._reply(self.waiting.pop(0))
        self.done[reply.session[0]].set()
        return [reply]


def test_the_engine_generates_while_another_episode_steps(agent_spec: AgentSpec) -> None:
    engine, met = OneByOne(agent_spec), []

    def enters(env: Beside, call: str) -> None:
        if call == "step" and env.task == NAMES[0]:
            met.append(engine.done[1].wait(LONG))

    run_episodes(specs(agent_spec, 2), lambda: Beside(enters), engine, KEY)
    assert met
    assert all(met)


def test_with_a_remote_engine_a_slow_environment_holds_up_nobody(agent_spec: AgentSpec) -> None:
    class Api(Seeded):
        def spent(self) -> dict[str, float]:
            return {}

    over, met = threading.Event(), []

    def enters(env: Beside, call: str) -> None:
        if call == "reset" and env.task == NAMES[0]:
            met.append(over.wait(LONG))

    def on_done(episode: Episode) -> None:
        if episode.group == 1:
            over.set()

    run_episodes(specs(agent_spec, 2), lambda: Beside(enters), Api(agent_spec), KEY, on_done)
    assert met == [True]


def fails(error: BaseException) -> Callable[[Beside, str], None]:
    def enters(env: Beside, call: str) -> None:
        if call == "step" and env.task == NAMES[2]:
            raise error

    return enters


@pytest.mark.parametrize("kind", [Beside, Alone])
@pytest.mark.parametrize("error", [None, WorldError("gone"), UserError("env=toy: no"), RuntimeError("a bug")])
@pytest.mark.parametrize("interrupted", [False, True])
def test_every_environment_is_closed_once_and_never_while_it_answers(
    agent_spec: AgentSpec, kind: type[Beside], error: Exception | None, interrupted: bool
) -> None:
    made, inside, closed = [], Counter[int](), Counter[int]()
    ended: list[Episode] = []

    class Stopped(Seeded):
        def step(self) -> list[Reply]:
            if interrupted and len(self.waiting) < len(self.asked):  # one has got its reply
                raise KeyboardInterrupt
            return [self._reply(self.waiting.pop(0))] if interrupted and self.waiting else super().step()

    def enters(env: Beside, call: str) -> None:
        if call == "close":
            assert not inside[id(env)]
            closed[id(env)] += 1
            return
        inside[id(env)] += 1
        try:
            time.sleep(0.002)
            if error:
                fails(error)(env, call)
        finally:
            inside[id(env)] -= 1

    def make() -> Beside:
        made.append(kind(enters))
        return made[-1]

    raised = KeyboardInterrupt if interrupted else type(error) if isinstance(error, UserError | RuntimeError) else None
    with pytest.raises(raised) if raised else nullcontext():
        run_episodes(specs(agent_spec, 12), make, Stopped(agent_spec, 5), KEY, ended.append)
    if not raised:
        assert [episode.group for episode in ended if episode.outcome == "broken"] == [2] * (error is not None)
        assert len(made) == 5 + (ATTEMPTS if error else 0)
    assert closed == {id(env): 1 for env in made}
    assert not any(inside.values())


def test_a_mixture_is_as_concurrent_as_the_environment_of_the_task() -> None:
    options = {"agentgym": {"url": "http://127.0.0.1:9"}}
    mixed = load("paper", split="test", trains=["toy"], holds_out=["agentgym"], options=options)
    assert concurrent(mixed)
    assert {concurrent(mixed, task) for task in mixed.tasks if task.startswith("toy/")} == {False}
    assert {concurrent(mixed, task) for task in mixed.tasks if task.startswith("agentgym/")} == {True}
    assert not concurrent(load("paper", split="test", trains=["toy"], holds_out=["maze"]))

"""The rollout scheduler: runs many episodes concurrently through one engine, and returns them in the order asked for.

An episode is a generator that yields requests for the model and receives replies; as many are live as the engine has
slots, so that none waits for the slowest. What else it waits for, a teacher behind an API or a concurrent environment, is
under way in a thread meanwhile. Nothing depends on the clock: episodes start in the order of their specs, what is waited for
is handed out in the order in which it was asked for, and the seed of a call follows from its key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from contextlib import closing
from typing import Any

from pilotrl.engine import Engine, RemoteEngine
from pilotrl.envs import Env
from pilotrl.envs.worlds import Worlds
from pilotrl.rollout.agent import EpisodeGenerator, EpisodeSpec, Key, OnDone
from pilotrl.rollout.episode import episode_of
from pilotrl.rollout.stopwatch import phase
from pilotrl.types import Episode, Reply, Request, WorldError

ATTEMPTS = 3
"""How often an episode is started, each time in a new environment, before its outcome is `broken`."""


def run_episodes(
    specs: Sequence[EpisodeSpec],
    make_env: Callable[[], Env],
    engine: Engine,
    key: Key,
    on_done: OnDone = lambda episode: None,
    taken: bool = False,
) -> list[Episode]:
    """Run episodes, in the order of `specs`. `key` seeds them: (run seed, "train", step). taken: the engine has the weights."""
    if not taken and (asking := [one.agent for one in specs if not one.agent.demonstrates or one.agent.own_actions]):
        phase("sync")(engine.take)(asking[0].version)
    scheduler = RolloutScheduler(specs, Worlds(phase("environment")(make_env), engine.slots), engine, key, on_done)
    with phase("environment"), closing(scheduler.worlds), phase("generate"):
        while scheduler.live or scheduler.waiting:
            while scheduler.waiting and len(scheduler.live) < engine.slots:
                scheduler.start(scheduler.waiting.pop(0), attempt=0)
            for reply in engine.step() if scheduler.live else []:
                scheduler.advance(reply.session, reply)
            for session in scheduler.answered():
                scheduler.advance(session, scheduler.pending.pop(session))
    phase("sync")(engine.rest)()
    return [scheduler.done[spec.group, spec.sample] for spec in specs]


class RolloutScheduler:
    """The live episodes, each with its environment and attempt, and those that wait for a slot or are done."""

    def __init__(self, specs: Sequence[EpisodeSpec], worlds: Worlds, engine: Engine, key: Key, on_done: OnDone) -> None:
        self.waiting, self.began = list(specs), dict[tuple[int, int], float]()
        self.worlds, self.engine, self.key, self.on_done = worlds, engine, key, on_done
        self.live: dict[tuple[int, int], tuple[EpisodeSpec, int, EpisodeGenerator]] = {}
        self.pending: dict[tuple[int, int], Future[Any]] = {}  # teachers' plans and environments' answers
        self.done: dict[tuple[int, int], Episode] = {}

    def start(self, spec: EpisodeSpec, attempt: int) -> None:
        session = (spec.group, spec.sample)
        self.began.setdefault(session, time.perf_counter())
        self.live[session] = spec, attempt, self._episode(spec, attempt)
        self.advance(session, None)

    def _episode(self, spec: EpisodeSpec, attempt: int) -> EpisodeGenerator:
        """An episode in an environment that it leases; a further attempt gets a new one."""
        with self.worlds.lease(fresh=attempt > 0) as env:
            return (yield from episode_of(env, spec, (*self.key, spec.group, spec.sample, attempt)))

    def answered(self) -> list[tuple[int, int]]:
        """Whose plan or answer is handed out: all once no live episode waits for the engine, so that no order depends on how
        fast they are; with a remote engine, whose own replies come by the clock, those that are there."""
        idle, remote = len(self.pending) == len(self.live), isinstance(self.engine, RemoteEngine)
        if idle:
            waiting = phase("environment" if self.worlds.asked else "wait")(wait)
            waiting(self.pending.values(), return_when=FIRST_COMPLETED if remote else ALL_COMPLETED)
        return [session for session, future in self.pending.items() if future.done()] if idle or remote else []

    def advance(self, session: tuple[int, int], reply: Reply | Future[Any] | None) -> None:
        """Send a reply to its episode; submit its next request, or end it. After WorldError it is started again."""
        spec, attempt, episode = self.live[session]
        try:
            if isinstance(request := episode.send(reply), Request):
                self.engine.submit(request)
            else:
                self.pending[session] = request if isinstance(request, Future) else self.worlds.ask(request)
        except StopIteration as end:
            self._finish(session, end.value)
        except WorldError:
            if attempt + 1 < ATTEMPTS:
                del self.live[session]
                self.engine.release(session)
                self.start(spec, attempt + 1)
            else:
                self._finish(session, Episode(spec.task, spec.group, spec.sample, ""))

    def _finish(self, session: tuple[int, int], episode: Episode) -> None:
        del self.live[session]
        self.engine.release(session)
        episode.seconds = time.perf_counter() - self.began.pop(session)
        self.done[session] = episode
        self.on_done(episode)

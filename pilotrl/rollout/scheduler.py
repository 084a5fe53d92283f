"""Play groups of episodes to their end: Algorithm 1 of PilotRL (arXiv 2508.00344), in order.

An episode is a generator that yields requests for the model and receives replies; `run_episodes` keeps as many of them going as
the engine has slots, so none waits for the slowest. Nothing here depends on the clock: the order of admission follows the
tickets, and the seed of a call follows from what the call is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from pilotrl.engine import Engine
from pilotrl.envs import Env
from pilotrl.rollout.agent import EpisodeGenerator, EpisodeSpec, Key, PendingPlan
from pilotrl.rollout.episode import episode_of
from pilotrl.types import Episode, Plan, Reply, WorldError

ATTEMPTS = 3
"""Worlds an episode gets before it is broken."""


def run_episodes(
    specs: Sequence[EpisodeSpec],
    make_env: Callable[[], Env],
    engine: Engine,
    key: Key,
    on_done: Callable[[Episode], None] = lambda episode: None,
) -> list[Episode]:
    """All tickets' episodes, in the order of the tickets. `key` says what is played: (run seed, "train", step)."""
    scheduler = RolloutScheduler(specs, make_env, engine, key)
    while scheduler.live or scheduler.waiting:
        while scheduler.waiting and len(scheduler.live) < engine.slots:
            scheduler.start(scheduler.waiting.pop(0), attempt=0)
        for reply in engine.step() if scheduler.live else []:
            scheduler.advance(reply.session, reply)
        if scheduler.pending_plans:
            scheduler.await_plans()
        for episode in scheduler.collect():
            on_done(episode)
    return [scheduler.done[spec.group, spec.sample] for spec in specs]


class RolloutScheduler:
    """The episodes being played: who sits, in which world, at which attempt."""

    def __init__(self, specs: Sequence[EpisodeSpec], make_env: Callable[[], Env], engine: Engine, key: Key) -> None:
        self.waiting = list(specs)
        self.make_env, self.engine, self.key = make_env, engine, key
        self.live: dict[tuple[int, int], tuple[EpisodeSpec, int, EpisodeGenerator]] = {}
        self.idle: list[Env] = []
        self.pending_plans: dict[tuple[int, int], PendingPlan] = {}
        self.done: dict[tuple[int, int], Episode] = {}
        self._fresh: list[Episode] = []

    def start(self, spec: EpisodeSpec, attempt: int) -> None:
        session = (spec.group, spec.sample)
        self.live[session] = spec, attempt, self._episode(spec, attempt)
        self.advance(session, None)

    def _episode(self, spec: EpisodeSpec, attempt: int) -> EpisodeGenerator:
        """An episode in a world that others may play in afterwards, unless it failed; a new try gets a new one."""
        env = self.idle.pop() if self.idle and not attempt else self.make_env()
        episode = yield from episode_of(env, spec, (*self.key, spec.group, spec.sample, attempt))
        self.idle.append(env)
        return episode

    def await_plans(self) -> None:
        """Hand out the teacher's plans once all that live wait for one, so that no order depends on how fast it is."""
        if len(self.pending_plans) == len(self.live):
            pending_plans, self.pending_plans = self.pending_plans, {}
            for session, plan in pending_plans.items():
                self.advance(session, plan.result())

    def advance(self, session: tuple[int, int], reply: Reply | Plan | None) -> None:
        """Carry a reply into its episode; submit what that asks next, or end it. A world that fails is tried anew."""
        spec, attempt, episode = self.live[session]
        try:
            if isinstance(asked := episode.send(reply), Future):
                self.pending_plans[session] = asked
            else:
                self.engine.submit(asked)
        except StopIteration as end:
            self._leave(session, end.value)
        except WorldError:
            if attempt + 1 < ATTEMPTS:
                del self.live[session]
                self.engine.release(session)
                self.start(spec, attempt + 1)
            else:
                self._leave(session, Episode(spec.task, spec.group, spec.sample, ""))

    def collect(self) -> list[Episode]:
        fresh, self._fresh = self._fresh, []
        return fresh

    def _leave(self, session: tuple[int, int], episode: Episode) -> None:
        del self.live[session]
        self.engine.release(session)
        self.done[session] = episode
        self._fresh.append(episode)

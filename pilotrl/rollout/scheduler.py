"""The rollout scheduler: runs many episodes concurrently through one engine, and returns them in the order asked for.

An episode is a generator that yields requests for the model and receives replies; as many are live as the engine has
slots, so that none waits for the slowest. Nothing depends on the clock: episodes start in the order of their specs, and
the seed of a call follows from its key.
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
"""How often an episode is started, each time in a new environment, before its outcome is `broken`."""


def run_episodes(
    specs: Sequence[EpisodeSpec],
    make_env: Callable[[], Env],
    engine: Engine,
    key: Key,
    on_done: Callable[[Episode], None] = lambda episode: None,
) -> list[Episode]:
    """Run all episodes; returns them in the order of `specs`. `key` seeds them, such as (run seed, "train", step)."""
    if asking := [spec.agent for spec in specs if not spec.agent.demonstrates]:
        engine.take(asking[0].version)
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
    engine.rest()
    return [scheduler.done[spec.group, spec.sample] for spec in specs]


class RolloutScheduler:
    """The live episodes, each with its environment and attempt, and those that wait for a slot or are done."""

    def __init__(self, specs: Sequence[EpisodeSpec], make_env: Callable[[], Env], engine: Engine, key: Key) -> None:
        self.waiting = list(specs)
        self.make_env, self.engine, self.key = make_env, engine, key
        self.live: dict[tuple[int, int], tuple[EpisodeSpec, int, EpisodeGenerator]] = {}
        self.idle: list[Env] = []
        self.pending_plans: dict[tuple[int, int], PendingPlan] = {}
        self.done: dict[tuple[int, int], Episode] = {}
        self._uncollected: list[Episode] = []

    def start(self, spec: EpisodeSpec, attempt: int) -> None:
        session = (spec.group, spec.sample)
        self.live[session] = spec, attempt, self._episode(spec, attempt)
        self.advance(session, None)

    def _episode(self, spec: EpisodeSpec, attempt: int) -> EpisodeGenerator:
        """An episode in an environment that later ones reuse, unless it failed; a further attempt gets a new one."""
        env = self.idle.pop() if self.idle and not attempt else self.make_env()
        episode = yield from episode_of(env, spec, (*self.key, spec.group, spec.sample, attempt))
        self.idle.append(env)
        return episode

    def await_plans(self) -> None:
        """Deliver the teacher's plans once all live episodes wait for one, so that no order depends on the API's speed."""
        if len(self.pending_plans) == len(self.live):
            pending_plans, self.pending_plans = self.pending_plans, {}
            for session, plan in pending_plans.items():
                self.advance(session, plan.result())

    def advance(self, session: tuple[int, int], reply: Reply | Plan | None) -> None:
        """Send a reply to its episode; submit its next request, or end it. After WorldError it is started again."""
        spec, attempt, episode = self.live[session]
        try:
            if isinstance(request := episode.send(reply), Future):
                self.pending_plans[session] = request
            else:
                self.engine.submit(request)
        except StopIteration as end:
            self._finish(session, end.value)
        except WorldError:
            if attempt + 1 < ATTEMPTS:
                del self.live[session]
                self.engine.release(session)
                self.start(spec, attempt + 1)
            else:
                self._finish(session, Episode(spec.task, spec.group, spec.sample, ""))

    def collect(self) -> list[Episode]:
        """The episodes that ended since the last call."""
        ended, self._uncollected = self._uncollected, []
        return ended

    def _finish(self, session: tuple[int, int], episode: Episode) -> None:
        del self.live[session]
        self.engine.release(session)
        self.done[session] = episode
        self._uncollected.append(episode)

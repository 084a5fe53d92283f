"""Play groups of episodes to their end: Algorithm 1 of PilotRL (arXiv 2508.00344), in order.

An episode is a generator that yields requests for the model and receives replies; `play` keeps as many of them going as
the engine has slots, so none waits for the slowest. Nothing here depends on the clock: the order of admission follows the
tickets, and the seed of a call follows from what the call is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from pilotrl.engine import Engine
from pilotrl.envs import Env
from pilotrl.rollout.agent import Key, Play, Promise, Ticket
from pilotrl.rollout.episode import episode_of
from pilotrl.types import Episode, Plan, Reply, WorldError

ATTEMPTS = 3
"""Worlds an episode gets before it is broken."""


def play(
    tickets: Sequence[Ticket],
    make_env: Callable[[], Env],
    engine: Engine,
    key: Key,
    on_done: Callable[[Episode], None] = lambda episode: None,
) -> list[Episode]:
    """All tickets' episodes, in the order of the tickets. `key` says what is played: (run seed, "train", step)."""
    table = _Table(tickets, make_env, engine, key)
    while table.live or table.waiting:
        while table.waiting and len(table.live) < engine.slots:
            table.seat(table.waiting.pop(0), attempt=0)
        for reply in engine.step() if table.live else []:
            table.advance(reply.session, reply)
        if table.promised:
            table.keep_promises()
        for episode in table.collect():
            on_done(episode)
    return [table.done[ticket.group, ticket.sample] for ticket in tickets]


class _Table:
    """The episodes being played: who sits, in which world, at which attempt."""

    def __init__(
        self, tickets: Sequence[Ticket], make_env: Callable[[], Env], engine: Engine, key: Key
    ) -> None:
        self.waiting = list(tickets)
        self.make_env, self.engine, self.key = make_env, engine, key
        self.live: dict[tuple[int, int], tuple[Ticket, int, Play]] = {}
        self.idle: list[Env] = []
        self.promised: dict[tuple[int, int], Promise] = {}
        self.done: dict[tuple[int, int], Episode] = {}
        self._fresh: list[Episode] = []

    def seat(self, ticket: Ticket, attempt: int) -> None:
        session = (ticket.group, ticket.sample)
        self.live[session] = ticket, attempt, self._game(ticket, attempt)
        self.advance(session, None)

    def _game(self, ticket: Ticket, attempt: int) -> Play:
        """An episode in a world that others may play in afterwards, unless it failed; a new try gets a new one."""
        env = self.idle.pop() if self.idle and not attempt else self.make_env()
        episode = yield from episode_of(env, ticket, (*self.key, ticket.group, ticket.sample, attempt))
        self.idle.append(env)
        return episode

    def keep_promises(self) -> None:
        """Hand out the teacher's plans once all that live wait for one, so that no order depends on how fast it is."""
        if len(self.promised) == len(self.live):
            promised, self.promised = self.promised, {}
            for session, plan in promised.items():
                self.advance(session, plan.result())

    def advance(self, session: tuple[int, int], reply: Reply | Plan | None) -> None:
        """Carry a reply into its episode; submit what that asks next, or end it. A world that fails is tried anew."""
        ticket, attempt, game = self.live[session]
        try:
            if isinstance(asked := game.send(reply), Future):
                self.promised[session] = asked
            else:
                self.engine.submit(asked)
        except StopIteration as end:
            self._leave(session, end.value)
        except WorldError:
            if attempt + 1 < ATTEMPTS:
                del self.live[session]
                self.engine.release(session)
                self.seat(ticket, attempt + 1)
            else:
                self._leave(session, Episode(ticket.task, ticket.group, ticket.sample, ""))

    def collect(self) -> list[Episode]:
        fresh, self._fresh = self._fresh, []
        return fresh

    def _leave(self, session: tuple[int, int], episode: Episode) -> None:
        del self.live[session]
        self.engine.release(session)
        self.done[session] = episode
        self._fresh.append(episode)



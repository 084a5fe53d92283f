"""The environments of a batch: each is leased to one episode at a time, and all are closed however the batch ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from pilotrl.envs import Env, concurrent, parts
from pilotrl.types import WorldError


class Worlds:
    """The environments of a batch, and the threads in which those that are `concurrent` answer. Others start no thread."""

    def __init__(self, make: Callable[[], Env], episodes: int) -> None:
        """`episodes`: how many run concurrently. Each may ask one environment while its last one, which failed, is closed."""
        self.make, self.idle, self.leased = make, list[Env](), dict[int, Env]()
        self.threads = 2 * episodes
        self.pool = ThreadPoolExecutor(self.threads, "world")
        self.asked: set[Future[Any]] = set()  # and not answered yet

    @contextmanager
    def lease(self, fresh: bool) -> Iterator[Env]:
        """An environment for one episode, a new one if it has to be `fresh`. Later ones reuse it; one that failed is closed."""
        env = self.idle.pop() if self.idle and not fresh else self.make()
        self.leased[id(env)] = env
        try:
            yield env
        except WorldError:
            self._close(self.leased.pop(id(env)))
            raise
        self.idle.append(self.leased.pop(id(env)))

    def ask(self, call: Callable[[], Any]) -> Future[Any]:
        """Call a concurrent environment in a thread."""
        answer = self.pool.submit(call)
        self.asked.add(answer)
        answer.add_done_callback(self.asked.discard)
        return answer

    def close(self) -> None:
        """Close every environment, once it has answered what it was asked."""
        self.pool.shutdown()
        with ThreadPoolExecutor(self.threads, "world") as self.pool:
            for env in [*self.leased.values(), *self.idle]:
                self._close(env)

    def _close(self, env: Env) -> None:
        for part in parts(env):
            if close := getattr(part, "close", None):
                self.pool.submit(close) if concurrent(part) else close()

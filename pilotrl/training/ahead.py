"""A step is played while the one before is learned from: where the engine has a copy of the weights, and with a lag (`lag.py`).

The weights before an update are those that play the next step. So they are sent, a thread has the engine play, and the update
begins. What is said is what would be said afterwards: nothing depends on which of the two takes longer.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

from pilotrl.rollout import stopwatch
from pilotrl.rollout.agent import Asked
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.types import Episode


class Ahead:
    """Has episodes run in a thread, one step at a time. `seconds`: how long those took that were waited for last."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "ahead")
        self.begun: Future[tuple[list[Episode], float]] | None = None
        self.progress, self.seconds = Event(), 0.0

    def begin(self, asked: Asked) -> None:
        """The engine has taken the weights that are to play, and is the thread's until the episodes were waited for."""
        specs, make_env, engine, key, on_done = asked

        def note(episode: Episode) -> None:
            on_done(episode)
            self.progress.set()

        def run() -> tuple[list[Episode], float]:
            began = time.perf_counter()
            return run_episodes(specs, make_env, engine, key, note, taken=True), time.perf_counter() - began

        self.begun = self.thread.submit(run)
        self.begun.add_done_callback(lambda _: self.progress.set())

    def wait(self) -> list[Episode]:
        """The episodes that were begun, once; else none. Raises what running them has raised. Each one that ends is a new phase,
        so that a deadline is one for an episode."""
        begun, self.begun = self.begun, None
        if begun is None:
            return []
        while not begun.done():
            stopwatch.phase("wait")(self.progress.wait)()
            self.progress.clear()
        episodes, self.seconds = begun.result()
        return episodes

    def close(self) -> None:
        """Wait until what was begun has ended, in an engine that is closed already."""
        self.thread.shutdown()

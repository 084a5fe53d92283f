"""A step is played while the one before is learned from: where the engine has a copy of the weights, and with a lag (`lag.py`).

The weights before an update are those that play the next step. So they are sent, a thread has the engine play, and the update
begins. What is said is what would be said afterwards: nothing depends on which of the two takes longer.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from pilotrl.rollout import stopwatch
from pilotrl.rollout.agent import Asked
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.types import Episode


class Ahead:
    """Has episodes run in a thread, one step at a time. `seconds`: how long those took that were waited for last."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "ahead")
        self.begun: Future[tuple[list[Episode], float]] | None = None
        self.seconds = 0.0

    def begin(self, asked: Asked) -> None:
        """The engine has taken the weights that are to play, and is the thread's until the episodes were waited for."""

        def run() -> tuple[list[Episode], float]:
            began = time.perf_counter()
            return run_episodes(*asked, taken=True), time.perf_counter() - began

        self.begun = self.thread.submit(run)

    def wait(self) -> list[Episode]:
        """The episodes that were begun, once; else none. Raises what running them has raised."""
        begun, self.begun = self.begun, None
        if begun is None:
            return []
        episodes, self.seconds = stopwatch.phase("wait")(begun.result)()
        return episodes

"""Where the time of a process goes: phases that exclude each other, so that their seconds add up to the whole.

    with stopwatch.phase("environment"):      # stops the phase around it, which goes on afterwards
        env.step(action)
    seconds, spent = stopwatch.lap()          # since the lap before

Only the main thread has phases: what it waits for while others work is the phase that it waits in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

Phase = Literal["generate", "environment", "judge", "sync", "wait", "train", "save", "other"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""What the seconds of a step are divided into; `other` is what no phase is about."""


class Stopwatch:
    """One phase at a time. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.open = clock, list[Phase](["other"])
        self.spent: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self.began = self.since = clock()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """What runs inside belongs to this phase alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._credit()
        self.open.append(name)
        try:
            yield
        finally:
            self._credit()
            self.open.pop()

    def _credit(self) -> None:
        """Up to now the time belongs to the present phase."""
        now = self.clock()
        self.spent[self.open[-1]] += now - self.since
        self.since = now

    def lap(self) -> tuple[float, dict[Phase, float]]:
        """Seconds since the last lap, and those of each phase."""
        self._credit()
        seconds, spent = self.since - self.began, self.spent
        self.began, self.spent = self.since, dict.fromkeys(PHASES, 0.0)
        return seconds, spent

    def divide(self, laps: Sequence[Mapping[Phase, float]]) -> None:
        """Of processes that this one waited for: the mean of their phases takes the place of that wait."""
        self._credit()
        for spent in laps:
            for name, seconds in spent.items():
                self.spent[name] += seconds / len(laps)
                self.spent["wait"] -= seconds / len(laps)


stopwatch = Stopwatch()
"""Of this process."""
phase, lap, divide = stopwatch.phase, stopwatch.lap, stopwatch.divide

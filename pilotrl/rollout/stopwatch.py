"""Where the time of a process goes: phases that exclude each other, so that their seconds add up to the whole.

    with stopwatch.phase("environment"):      # stops the phase around it, which goes on afterwards
        env.step(action)
    seconds, spent = stopwatch.lap()          # since the lap before

Only the main thread has phases: what it waits for while others work is the phase that it waits in. A phase may have a deadline;
a process whose phase takes longer prints what all its threads are doing, and ends as if it were killed.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

log = logging.getLogger(__name__)

Phase = Literal["generate", "environment", "judge", "sync", "wait", "train", "save", "other"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""What the seconds of a step are divided into; `other` is what no phase is about."""
LATER = 10.0
"""Seconds after a deadline at which a process is ended that does not even notice that it has passed."""


class Stopwatch:
    """One phase at a time. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.open, self.process = clock, list[tuple[Phase, bool]](), os.getpid()
        self.open.append(("other", False))
        self.deadline: float | None = None
        self.spent: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self.began = self.since = clock()

    @contextmanager
    def phase(self, name: Phase, watched: bool = True) -> Iterator[None]:
        """What runs inside belongs to this phase alone. watched: its deadline counts; not where this process waits for others
        that have one of their own."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._credit()
        self.open.append((name, watched))
        try:
            yield
        finally:
            self._credit()
            self.open.pop()

    def _credit(self) -> None:
        """Up to now the time belongs to the present phase."""
        now = self.clock()
        self.spent[self.open[-1][0]] += now - self.since
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

    @contextmanager
    def limited(self, deadline: float | None) -> Iterator[None]:
        """Inside no phase may take more than so many seconds; None: as long as it takes."""
        self.deadline = deadline
        if deadline is None:
            yield
            return
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(deadline, over), name="deadline", daemon=True)
        watch.start()
        try:
            yield
        finally:
            self.deadline = None
            over.set()
            watch.join()

    def _watch(self, deadline: float, over: threading.Event) -> None:
        own = os.getpid() == self.process  # in a fork the timer of the other process could not even be cancelled
        while not over.wait(min(1.0, deadline / 4)):
            if own:  # for a phase that does not let this thread run
                faulthandler.dump_traceback_later(deadline + LATER, exit=True, file=sys.__stderr__ or 2)
            name, watched = self.open[-1]
            if watched and (lasted := self.clock() - self.since) > deadline:
                faulthandler.dump_traceback(sys.__stderr__ or 2)
                said = "phase %s has lasted %.0f s: trainer.deadline=%g ends it; resume= goes on"
                log.error(said, name, lasted, deadline)
                os._exit(1)
        if own:
            faulthandler.cancel_dump_traceback_later()


stopwatch = Stopwatch()
"""Of this process."""
phase, lap, divide, limited = stopwatch.phase, stopwatch.lap, stopwatch.divide, stopwatch.limited

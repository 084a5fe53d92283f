"""Phases exclude each other, whatever is nested in what, and one that takes too long ends the process."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pilotrl import PACKAGE
from pilotrl.rollout.stopwatch import PHASES, Stopwatch


class Clock:
    """Stands still until it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> Stopwatch:
    return Stopwatch(clock)


def spent(lap: tuple[float, dict[str, float]]) -> dict[str, float]:
    """The phases that took any time; all together are the whole."""
    assert [*lap[1]] == [*PHASES]
    assert sum(lap[1].values()) == lap[0]
    return {name: seconds for name, seconds in lap[1].items() if seconds}


def test_a_nested_phase_stops_the_one_around_it(watch: Stopwatch, clock: Clock) -> None:
    clock.passes(1)
    with watch.phase("generate"):
        clock.passes(2)
        for _ in range(2):
            with watch.phase("environment"):
                clock.passes(4)
                with watch.phase("generate"):
                    clock.passes(8)
                clock.passes(16)
        clock.passes(32)
    clock.passes(64)
    assert spent(watch.lap()) == {"generate": 2 + 2 * 8 + 32, "environment": 2 * (4 + 16), "other": 1 + 64}


def test_a_phase_ends_however_it_ends(watch: Stopwatch, clock: Clock) -> None:
    @watch.phase("environment")
    def fails() -> None:
        clock.passes(2)
        raise KeyError

    for _ in range(2):
        with watch.phase("generate"), pytest.raises(KeyError):
            fails()
        clock.passes(1)
    assert spent(watch.lap()) == {"environment": 4, "other": 2}


def test_laps_follow_each_other_inside_of_a_phase_too(watch: Stopwatch, clock: Clock) -> None:
    with watch.phase("save"):
        clock.passes(1)
        assert spent(watch.lap()) == {"save": 1}
        assert spent(watch.lap()) == {}
        clock.passes(2)
    clock.passes(4)
    assert spent(watch.lap()) == {"save": 2, "other": 4}


def test_other_threads_have_no_phases(watch: Stopwatch, clock: Clock) -> None:
    """What they do meanwhile is the phase that the main thread waits in."""

    def work() -> None:
        with watch.phase("environment"):
            clock.passes(3)

    with watch.phase("wait"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert spent(watch.lap()) == {"wait": 3}


def test_what_workers_did_takes_the_place_of_the_wait_for_them(watch: Stopwatch, clock: Clock) -> None:
    """The mean over them; who was done earlier waits for the last one."""
    none = dict.fromkeys(PHASES, 0.0)
    with watch.phase("wait"):
        clock.passes(10)
    watch.divide([none | {"generate": 6, "environment": 4}, none | {"generate": 4}])
    assert spent(watch.lap()) == {"generate": 5, "environment": 2, "wait": 3}


HANGS = """
import re, sys, time
from pilotrl.rollout import stopwatch
def sleeps(): time.sleep(600)
def holds_the_interpreter(): re.match("(a|a)*b", "a" * 60)
stopwatch.LATER = 0.1
with stopwatch.limited(1):
    with stopwatch.phase("wait", watched=False):
        time.sleep(1.5)
    for _ in range(6):
        with stopwatch.phase("environment"):
            time.sleep(0.2)
    with stopwatch.phase("judge"):
        print("all this was fine", flush=True)
        globals()[sys.argv[1]]()
"""


@pytest.mark.parametrize("how", ["sleeps", "holds_the_interpreter"])
def test_a_phase_beyond_its_deadline_ends_the_process(how: str) -> None:
    """Each phase has a deadline of its own, and none where it waits for others that have one."""
    command = [sys.executable, "-c", HANGS, how]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == "all this was fine\n"
    assert f"in {how}" in done.stderr
    if how == "sleeps":
        assert "phase judge has lasted " in done.stderr
        assert "trainer.deadline=1 ends it" in done.stderr


def test_without_hanging_nothing_ends() -> None:
    watch = Stopwatch()
    with watch.limited(60.0), watch.phase("generate"):
        assert "deadline" in {thread.name for thread in threading.enumerate()}
    assert "deadline" not in {thread.name for thread in threading.enumerate()}
    with watch.limited(None):
        assert "deadline" not in {thread.name for thread in threading.enumerate()}

"""Phases exclude each other, whatever is nested in what."""

from __future__ import annotations

import threading

import pytest

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

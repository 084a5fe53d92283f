"""Which tasks a run plays: in training a function of (seed, step), on a panel always the same ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count

from pilotrl.envs import home

PANEL_SEED = 20250800344


def schedule(tasks: Sequence[str], seed: int, step: int, count: int) -> list[str]:
    """The tasks of a step: a function of (seed, step). All are seen once before any is seen again."""
    from numpy.random import default_rng  # here and not above: whoever asks for help does not wait for it

    places = [divmod(i, len(tasks)) for i in range(step * count, (step + 1) * count)]
    return [tasks[int(default_rng((seed, epoch)).permutation(len(tasks))[place])] for epoch, place in places]


def drawn(env: str, names: Sequence[str], tasks: int) -> tuple[str, ...]:
    """So many in a fixed random order, or all where there are fewer; of a mixture, as many of each environment as can be."""
    from numpy.random import default_rng

    order = [names[int(i)] for i in default_rng(PANEL_SEED).permutation(len(names))]
    places: defaultdict[str, Iterator[int]] = defaultdict(count)
    return tuple(sorted(order, key=lambda name: next(places[home(env, name)]))[:tasks])

"""Which tasks a run uses: in training a function of (seed, step), in the evaluation set always the same ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice

from pilotrl.envs import home

PANEL_SEED = 20250800344


def schedule(tasks: Sequence[str], seed: int, step: int, count: int) -> list[str]:
    """The tasks of a step: a function of (seed, step). All are seen once before any is seen again."""
    from numpy.random import default_rng  # imported here, so that `--help` does not wait for it

    indices = [divmod(i, len(tasks)) for i in range(step * count, (step + 1) * count)]
    return [tasks[int(default_rng((seed, epoch)).permutation(len(tasks))[index])] for epoch, index in indices]


def spare(tasks: Sequence[str], seed: int, step: int, played: Sequence[str], count: int) -> list[str]:
    """Tasks that take the place of others in a step: those played least in it, in an order that (seed, step) decides."""
    from numpy.random import default_rng

    order = [tasks[int(index)] for index in default_rng((seed, step, 2)).permutation(len(tasks))]
    return [*islice(cycle(sorted(order, key=Counter(played).__getitem__)), count)]


def drawn(env: str, names: Sequence[str], tasks: int) -> tuple[str, ...]:
    """The first `tasks` names in a fixed random order, or all if there are fewer; of a mixture, evenly by environment."""
    from numpy.random import default_rng

    order = [names[int(i)] for i in default_rng(PANEL_SEED).permutation(len(names))]
    rank: defaultdict[str, Iterator[int]] = defaultdict(count)  # within its own environment
    return tuple(sorted(order, key=lambda name: next(rank[home(env, name)]))[:tasks])

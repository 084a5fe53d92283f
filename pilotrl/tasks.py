"""Which tasks a run plays: in training a function of (seed, step), on a panel always the same ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pilotrl import envs
from pilotrl.config import Config
from pilotrl.envs import Env, home

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


def world(config: Config, split: str) -> Env:
    """The world of a run, with the tasks of a split."""
    settings = cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, config.env), resolve=True))
    return envs.build(settings | {"split": split})


def taught(config: Config, trains: bool = True) -> dict[str, list[str]]:
    """By split, the tasks that a run with a teacher asks it about: those of its panel and, where it trains, of its steps."""
    train, found = config.train, defaultdict[str, list[str]](list)
    if trains:
        names = world(config, split := config.env["split"]).tasks[: config.stage.demonstrations]
        found[split] += [name for step in range(train.steps) for name in schedule(names, config.seed, step, train.tasks)]
        if train.validate_every:
            found["valid"] += schedule(world(config, "valid").tasks, config.seed, 0, train.validate_tasks)
    split = config.panel.split
    found[split] += drawn(envs.name_of(config.env), world(config, split).tasks, config.panel.tasks)
    return {split: list(dict.fromkeys(names)) for split, names in found.items()}

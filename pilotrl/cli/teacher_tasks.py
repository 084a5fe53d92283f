"""Which tasks a run will ask its teacher about, known before it starts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pilotrl import envs
from pilotrl.config.schema import Config
from pilotrl.envs import Env
from pilotrl.rollout.task_schedule import drawn, schedule


def environment(config: Config, split: str) -> Env:
    """The world of a run, with the tasks of a split."""
    settings = cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, config.env), resolve=True))
    return envs.build(settings | {"split": split})


def teacher_tasks(config: Config, trains: bool = True) -> dict[str, list[str]]:
    """By split, the tasks that a run with a teacher asks it about: of its evaluation set and its training steps."""
    train, found = config.train, defaultdict[str, list[str]](list)
    if trains:
        names = environment(config, split := config.env["split"]).tasks[: config.stage.demonstrations]
        chance = train.resample or config.curriculum.easy is not None  # depends on what is solved: all tasks may come
        steps = [] if chance else range(train.steps)
        found[split] += [name for step in steps for name in schedule(names, config.seed, step, train.tasks)] or names
        if train.validate_every:
            found["dev"] += schedule(environment(config, "dev").tasks, config.seed, 0, train.validate_tasks)
    split = config.panel.split
    found[split] += drawn(envs.name_of(config.env), environment(config, split).tasks, config.panel.tasks)
    return {split: list(dict.fromkeys(names)) for split, names in found.items()}

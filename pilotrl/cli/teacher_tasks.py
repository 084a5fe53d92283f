"""What a run will ask its teacher: about which tasks, and whether for steps that last, known before it starts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pilotrl import envs
from pilotrl.cli.open_nodes import locate
from pilotrl.config.schema import Config
from pilotrl.envs import Env
from pilotrl.rollout.agent import lasting
from pilotrl.rollout.task_schedule import drawn, schedule
from pilotrl.teacher import ExpertTeacher, lacks_subgoals
from pilotrl.types import UserError


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


def check_subgoals(config: Config) -> None:
    """Where a teacher writes steps that last, it can; and if it is the expert, that of each environment of the run."""
    stage, kind = config.stage, locate("teacher._target_", config.teacher["_target_"])
    if not lasting(config.agent.steps, config.agent.plans) or stage.planner != "teacher":
        return
    if stage.actor == "policy" and not hasattr(kind, "subgoals"):
        raise UserError(f"agent.steps=subgoal: {kind.__name__} has no method subgoals(); set agent.steps=action")
    if stage.actor == "policy" and kind is not ExpertTeacher:
        return
    if config.teacher.get("wording") == "loose":
        why = "has one wording for steps that last (agent.steps=subgoal)"
        raise UserError(f"teacher.wording=loose: the expert {why}; leave it null")
    for split in dict.fromkeys((config.env["split"], config.panel.split)):
        env = environment(config, split)
        for name, task in {envs.home(envs.name_of(config.env), task): task for task in env.tasks}.items():
            env.reset(options={"task": task})
            if not isinstance(env.expert, envs.SubgoalExpert):
                raise UserError(f"agent.steps=subgoal: {lacks_subgoals(name, env.expert)}")

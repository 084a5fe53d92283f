"""A teacher whose plans were written before: one for each task, from its first step to its last.

What is in a set was written before the first action. So that is what it offers, at whatever turn it is asked: the steps of
that plan which are still ahead, and none after its last. It never plans anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pilotrl.envs import Env, home
from pilotrl.teacher import plan_dataset
from pilotrl.types import Episode, Plan, UserError

LOOKED_AT = 8
"""Tasks of a split whose beginning is compared before a run; that of every other one is when it is played."""


class FileTeacher:
    """`path` is the folder of a set, or a Parquet file with the columns `env`, `task`, `observation` and `plan`.

    Of several plans for a task, the first is followed. Raises UserError for a path that holds no set.
    """

    def __init__(self, *, path: str | None) -> None:
        if path is None:
            raise UserError("path=null: name the folder of a set of plans; python -m pilotrl.plans writes one")
        self.path = path
        self.known: dict[tuple[str, str], tuple[str, Plan]] = {}
        for env, task, observation, plan in plan_dataset.read(Path(path).expanduser()):
            self.known.setdefault((env, _bare(env, task)), (observation, plan))

    def plan(self, env: Env, episode: Episode, plan: Plan) -> Plan:
        """What is left of the plan. Raises UserError for a task that it has none for."""
        return self._of(episode.task.env, episode.task.id, episode.observation)[len(episode.turns) :]

    def covers(self, world: Callable[[str], Env], env: str, tasks: Mapping[str, Sequence[str]]) -> None:
        """Raises UserError where a task has no plan here, or one that was written for another beginning."""
        every = [(name, split) for split, names in tasks.items() for name in names]
        lost = [pair for pair in every if (home(env, pair[0]), _bare(home(env, pair[0]), pair[0])) not in self.known]
        if lost:
            what = f"has no plan for {len(lost)} of {len(every)} tasks, such as {lost[0][0]} ({lost[0][1]})"
            raise UserError(
                f"path={self.path}: {what}; the same line with python -m pilotrl.plans out=FOLDER writes them"
            )
        for split, names in tasks.items():
            live = world(split)
            for name in names[:LOOKED_AT]:
                self._of(home(env, name), name, live.reset(options={"task": name})[0])

    def _of(self, env: str, task: str, observation: str) -> Plan:
        began, plan = self.known.get((env, _bare(env, task)), (None, ()))
        if began != observation:
            what = f"has no plan for {task}" if began is None else f"its plan for {task} was written in another {env}"
            raise UserError(f"path={self.path}: {what}; write one with the env of this run")
        return plan


def _bare(env: str, task: str) -> str:
    """A task's name, the same by itself and in a mixture."""
    return task.removeprefix(f"{env}/")

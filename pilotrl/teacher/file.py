"""The teacher that reads its plans from a file: one for each task, written before the first action.

At every turn it gives the remaining steps of that plan, and none after its last. It never replans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pilotrl.envs import Env, home
from pilotrl.teacher import plan_dataset
from pilotrl.types import Episode, Plan, UserError

LOOKED_AT = 8
"""Tasks of a split whose first observation is compared before a run; for all others that is done in the rollout."""


class FileTeacher:
    """`path` is the folder of a set, or a Parquet file with the columns `env`, `task`, `observation` and `plan`.

    Of several plans for a task, the first is used. Raises UserError for a path that holds no set of plans.
    """

    def __init__(self, *, path: str | None) -> None:
        if path is None:
            raise UserError("path=null: name the folder of a set of plans; python -m pilotrl.plans writes one")
        self.path = path
        self.known: dict[tuple[str, str], tuple[str, Plan]] = {}
        for env, task, observation, plan in plan_dataset.read(Path(path).expanduser()):
            self.known.setdefault((env, _bare(env, task)), (observation, plan))

    def plan(self, env: Env, episode: Episode, plan: Plan) -> Plan:
        """The remaining steps of the task's plan. Raises UserError for a task without one."""
        return self._of(episode.task.env, episode.task.id, episode.observation)[len(episode.turns) :]

    def covers(self, world: Callable[[str], Env], env: str, tasks: Mapping[str, Sequence[str]]) -> None:
        """Raises UserError if a task has no plan here, or one that was written for another first observation."""
        every = [(name, split) for split, names in tasks.items() for name in names]
        lacks = [pair for pair in every if (home(env, pair[0]), _bare(home(env, pair[0]), pair[0])) not in self.known]
        if lacks:
            what = f"has no plan for {len(lacks)} of {len(every)} tasks, such as {lacks[0][0]} ({lacks[0][1]})"
            raise UserError(
                f"path={self.path}: {what}; the same line with python -m pilotrl.plans out=FOLDER writes them"
            )
        for split, names in tasks.items():
            split_env = world(split)
            for name in names[:LOOKED_AT]:
                self._of(home(env, name), name, split_env.reset(options={"task": name})[0])

    def _of(self, env: str, task: str, observation: str) -> Plan:
        first, plan = self.known.get((env, _bare(env, task)), (None, ()))
        if first != observation:
            what = f"has no plan for {task}" if first is None else f"its plan for {task} was written in another {env}"
            raise UserError(f"path={self.path}: {what}; write one with the env of this run")
        return plan


def _bare(env: str, task: str) -> str:
    """A task's name without the prefix that it has in a mixture."""
    return task.removeprefix(f"{env}/")

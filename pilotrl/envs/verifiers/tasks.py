"""What a taskset of verifiers has: its environment, and its tasks by split. Neither is imported unless it is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from pilotrl.config import trust
from pilotrl.store.redact import in_one_line
from pilotrl.store.stored_yaml import leaves
from pilotrl.types import UserError

DIGITS = {"train": "0123456", "dev": "7", "test": "89"}
"""Last digits of the positions in each split."""
HELD_OUT = {"dev": "02468", "test": "13579"}
"""The same, where the tasks of training are others."""
OWN = {"idx", "id", "name"}
"""What a task is called, which does not make it another one."""


def checked(taskset: str | None, config: Any, held_out: Any) -> str:
    """The id of a taskset that may be imported with what its settings name. Raises UserError."""
    if taskset is None:
        raise UserError("env.taskset=null: has no value; give the module of a taskset, env.taskset=my_taskset")
    try:
        import verifiers.v1  # noqa: F401
    except ImportError as error:
        how = "pip install -c constraints-verifiers.txt -e '.[verifiers]'"
        raise UserError(f"env=verifiers: its package cannot be imported ({error}); {how}") from error
    name = taskset.rpartition("/")[2].partition("@")[0].replace("-", "_").lower()  # as verifiers finds the module
    if not name.isidentifier():
        raise UserError(f"env.taskset={taskset}: must be the name of a module at the top, as in env.taskset=my_taskset")
    if find_spec(f"verifiers.v1.tasksets.{name}") is None:
        trust.check("env.taskset", taskset, name)
    for key, held in {"config": config, "held_out": held_out}.items():
        if not isinstance(held, dict) or {"id", "system_prompt"} & held.keys():
            raise UserError(f"env.{key}={held}: must be a mapping of the taskset's own keys, env.{key}={{name: value}}")
        for place, value in leaves(held, f"env.{key}"):
            if ".judges" in place:
                raise UserError(f"{place}={value}: judges of a configuration are not supported; leave them out")
            if place.endswith(".fn"):  # a function that verifiers would import
                trust.check(place, str(value), str(value).rpartition(":")[0] or str(value).rpartition(".")[0])
    return taskset


def made(taskset: str, config: Mapping[str, Any]) -> Any:
    """The environment of a taskset. Raises UserError for one that there is not, that does not know its settings, or that has
    several players."""
    from verifiers.v1.configs.agent import agent_config_fields
    from verifiers.v1.utils.loaders import load_environment, resolve_env_config

    try:
        env = load_environment(resolve_env_config({"taskset": {**config, "id": taskset}}))
    except Exception as error:  # of the import, of its settings, or of its own
        raise UserError(f"env.taskset={taskset}: cannot be made ({in_one_line(error)})") from error
    if len(players := [*agent_config_fields(env.config)]) != 1:
        raise UserError(f"env.taskset={taskset}: has the players {', '.join(players)}; one can be played")
    return env


def tasks_of(
    taskset: str, split: str, config: Mapping[str, Any], held_out: Mapping[str, Any], most: int | None
) -> dict[str, Any]:
    """The tasks of a split by name, which is their position; those of `held_out`, where there are any, are named `other-0`.

    A task with the data of an earlier one is left out; held out, with that of one of training too. Raises UserError where there
    are none, and for tasks that need a container."""
    if split not in DIGITS:
        raise UserError(f"env.split={split}: must be one of {', '.join(DIGITS)}")
    written = json.dumps([config, held_out], sort_keys=True)
    every = _read(taskset, written, False, most)
    if not held_out:
        found = {str(place): task for place, (_, task) in every.items() if str(place)[-1] in DIGITS[split]}
    elif split == "train":
        found = {str(place): task for place, (_, task) in every.items()}
    else:
        known = {data for data, _ in every.values()}
        others = _read(taskset, written, True, most)
        found = {
            f"other-{place}": task
            for place, (data, task) in others.items()
            if str(place)[-1] in HELD_OUT[split] and data not in known
        }
    if not found:
        raise UserError(
            f"env.taskset={taskset}: leaves no task for the split {split}; it has {len(every)} different ones"
        )
    return found


@lru_cache(maxsize=4)
def _read(taskset: str, written: str, other: bool, most: int | None) -> dict[int, tuple[str, Any]]:
    """Data, as JSON, and task by position: one environment an episode would read them anew."""
    config, held_out = json.loads(written)
    env = made(taskset, {**config, **(held_out if other else {})})
    if most is None and not env.taskset.bounded:
        raise UserError(f"env.tasks=null: the taskset {taskset} has no end; say how many are read, env.tasks=1000")
    found, seen = dict[int, tuple[str, Any]](), set[str]()
    try:
        for place, task in enumerate(env.taskset if most is None else env.taskset.take(most)):
            data = json.dumps(task.data.model_dump(mode="json", exclude=OWN), sort_keys=True)
            if task.data.image or type(task).NEEDS_CONTAINER:
                raise UserError(f"env.taskset={taskset}: its task {place} needs a container, and none is started")
            if data not in seen:
                found[place] = data, task
                seen.add(data)
    except Exception as error:  # of a loader that is not ours
        if isinstance(error, UserError):
            raise
        raise UserError(f"env.taskset={taskset}: its tasks cannot be read ({in_one_line(error)})") from error
    return found

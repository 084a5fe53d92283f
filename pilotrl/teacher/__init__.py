"""Who writes the plans that others follow: a class with `plan`, and a YAML file `conf/teacher/NAME.yaml` that names it.

May import `endpoint`, `envs` and `prompts`. Never here: the policy; its own plans are calls, and are made in `rollout`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pilotrl.config.instantiate import make
from pilotrl.envs import Env
from pilotrl.types import Episode, Plan, UserError

if TYPE_CHECKING:
    from pilotrl.endpoint import Endpoint


class Teacher(Protocol):
    """Whoever writes plans."""

    def plan(self, env: Env, episode: Episode, plan: Plan) -> Plan | Future[Plan | None]:
        """Steps from the next action on, for the live `env` in which `episode` was played so far under `plan`.

        Where it takes time, a promise of them; None of it where they cannot be read: the plan in force stays.
        """
        ...


@runtime_checkable
class RemoteTeacher(Teacher, Protocol):
    """A teacher that asks an endpoint."""

    def plan(self, env: Env, episode: Episode, plan: Plan, sample: int = 0) -> Future[Plan | None]:
        """As above; `sample` numbers the plans for one situation, where several are wanted."""
        ...

    def endpoints(self) -> list[Endpoint]:
        """Whom it asks."""
        ...


@runtime_checkable
class Bounded(Teacher, Protocol):
    """A teacher that has plans for certain tasks alone."""

    def covers(self, world: Callable[[str], Env], env: str, tasks: Mapping[str, Sequence[str]]) -> None:
        """Raises UserError where a task of `env` that a run may ask about (by split) is not among them, or begins otherwise
        in the `world` of its split."""
        ...


@dataclass(frozen=True)
class ExpertTeacher:
    """The expert that the environment ships."""

    def plan(self, env: Env, episode: Episode, plan: Plan) -> Plan:
        """The expert's steps. Raises UserError where there is no expert."""
        if env.expert is None:
            raise UserError(f"stage.planner=teacher: {episode.task.env} ships no expert; set stage.planner=policy")
        return tuple(env.expert.plan())


def build(settings: dict[str, Any]) -> Teacher:
    """A teacher from its settings: `_target_` and the keywords of that class."""
    made: Teacher = make(settings)
    return made

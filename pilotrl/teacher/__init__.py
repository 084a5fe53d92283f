"""Teachers, which write the plans that the policy follows: a class with `plan`, named by `conf/teacher/NAME.yaml`.

May import `endpoint`, `envs` and `prompts`. Never here: the policy; its own plans are calls, and are made in `rollout`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pilotrl.config.instantiate import make
from pilotrl.envs import Env, FlexibleExpert, LooseExpert, SubgoalExpert
from pilotrl.types import Episode, Plan, UserError

if TYPE_CHECKING:
    from pilotrl.endpoint import Endpoint


class Teacher(Protocol):
    """The protocol of a teacher."""

    def plan(self, env: Env, episode: Episode, plan: Plan) -> Plan | Future[Plan | None]:
        """Steps from the next action on, for the running `episode` in `env`; `plan` is the current plan.

        A teacher behind an API returns a future, which gives None if its reply cannot be parsed: the current plan stays.
        """
        ...


@runtime_checkable
class RemoteTeacher(Teacher, Protocol):
    """A teacher that is an API model."""

    def plan(self, env: Env, episode: Episode, plan: Plan, sample: int = 0) -> Future[Plan | None]:
        """As above; `sample` numbers the plans for one state, if several are wanted."""
        ...

    def endpoints(self) -> list[Endpoint]:
        """The endpoints it uses, which are probed before a run."""
        ...


@runtime_checkable
class SubgoalTeacher(Teacher, Protocol):
    """A teacher that can also write steps that last (`agent.steps=subgoal`)."""

    def subgoals(self, env: Env, episode: Episode, plan: Plan, current: int) -> Plan | Future[Plan | None]:
        """As `plan`, but the steps from number `current`, the one in force, on: as it is, or worded anew. If it is done, an empty
        step stands in its place. Before the first plan `current` is 1, and nothing is done."""
        ...


@runtime_checkable
class Bounded(Teacher, Protocol):
    """A teacher that has plans for certain tasks only."""

    def covers(self, world: Callable[[str], Env], env: str, tasks: Mapping[str, Sequence[str]]) -> None:
        """Raises UserError if it has no plan for one of the `tasks` of `env` (names by split), or if a plan was written for
        another first observation. `world` gives the environment of a split."""
        ...


WORDINGS = ("exact", "loose")


@dataclass(frozen=True)
class ExpertTeacher:
    """The teacher that is the environment's scripted expert. `wording` of its steps: exact, from which the action follows by
    their words; loose, which say what to achieve, so that the action follows with what was seen; or None, loose where the
    expert writes such steps and exact elsewhere, and exact in what other plans are compared with (`reference`).

    Raises UserError for another wording."""

    wording: str | None

    def __post_init__(self) -> None:
        if self.wording not in (None, *WORDINGS):
            raise UserError(f"wording={self.wording}: must be one of {', '.join(WORDINGS)}, or null")

    def plan(self, env: Env, episode: Episode, plan: Plan) -> Plan:
        """The expert's steps. Raises UserError if the environment ships no expert, or none that words them so."""
        if env.expert is None:
            raise UserError(f"stage.planner=teacher: {episode.task.env} ships no expert; set stage.planner=policy")
        return self.steps(env)

    def steps(self, env: Env) -> Plan:
        """The expert's steps; none if the environment ships no expert. Raises UserError if it does not word them so."""
        expert = env.expert
        if expert is None or self.wording == "exact" or (self.wording is None and not isinstance(expert, LooseExpert)):
            return tuple(expert.plan()) if expert else ()
        if not isinstance(expert, LooseExpert):
            what = f"{type(expert).__name__} has no method loose()"
            raise UserError(f"teacher.wording=loose: {what}; write one, or set teacher.wording=exact")
        return tuple(expert.loose())

    def subgoals(self, env: Env, episode: Episode, plan: Plan, current: int) -> Plan:
        """The expert's steps that last. The one in force is done if the expert goes on with a later one of the plan, which has
        become no longer; else it is the same, or another takes its place. Raises UserError without such an expert."""
        if env.expert is None or not isinstance(env.expert, SubgoalExpert):
            raise UserError(f"agent.steps=subgoal: {lacks_subgoals(episode.task.env, env.expert)}")
        due, later = subgoals(env), plan[current:]
        done = due[:1] != plan[current - 1 : current] and due[:1] and due[0] in later and len(due) <= len(later)
        return ("", *due) if done else due


EXACT, LOOSE = ExpertTeacher("exact"), ExpertTeacher("loose")


def expert_of(teacher: Teacher) -> ExpertTeacher:
    """The expert whose plans are learned, stored or compared with: worded as this teacher is told to if it is that expert, else
    exact. By default only plans that are followed are loose."""
    return teacher if isinstance(teacher, ExpertTeacher) and teacher.wording else EXACT


def reference(teacher: Teacher, env: Env) -> Plan:
    """What the environment's expert would plan, to be compared with; empty without one."""
    return expert_of(teacher).steps(env)


def meant(teacher: Teacher, env: Env) -> Plan:
    """What the steps that this teacher writes now mean: the expert's exact ones; empty for plans that are graded as they are
    worded."""
    return EXACT.steps(env) if isinstance(teacher, ExpertTeacher) and teacher.wording != "exact" else ()


def taken(env: Env, means: str, action: str) -> str:
    """What the step in force means once its action is known: of the exact steps that serve it equally, the one that the action
    takes; else `means`, the expert's own."""
    expert = env.expert
    found = expert.equal(action.strip()) if means and isinstance(expert, FlexibleExpert) else ""
    return found if found and expert and expert.plan()[:1] == [means] else means


def subgoals(env: Env) -> Plan:
    """The expert's steps that last, from the one that it is at; empty without an expert that has them."""
    return tuple(step for step, _ in groupby(env.expert.subgoals())) if isinstance(env.expert, SubgoalExpert) else ()


def serving(env: Env, left: Plan) -> str:
    """The exact step that the expert would take now under the first of steps that last; empty where that is none of its own."""
    if env.expert is None or not isinstance(env.expert, SubgoalExpert):
        return ""
    pairs = zip(env.expert.subgoals(), env.expert.plan(), strict=True)
    return next((exact for subgoal, exact in pairs if left[:1] == (subgoal,)), "")


def taught(teacher: Teacher, env: Env, episode: Episode, plan: Plan, current: int) -> Plan | Future[Plan | None]:
    """What a teacher writes. `current`: number of the step in force, where steps last; else 0. Raises UserError for a teacher
    that does not write such steps."""
    if not current:
        return teacher.plan(env, episode, plan)
    if not isinstance(teacher, SubgoalTeacher):
        what = f"{type(teacher).__name__} has no method subgoals()"
        raise UserError(f"agent.steps=subgoal: {what}; set agent.steps=action")
    return teacher.subgoals(env, episode, plan, current)


def lacks_subgoals(env: str, expert: object) -> str:
    """Why an environment's expert writes no steps that last, and what to do."""
    if expert is None:
        return f"{env} ships no expert that could write the plans; set stage.planner=policy"
    return f"{type(expert).__name__} has no method subgoals(); write one, or set agent.steps=action"


def build(settings: dict[str, Any]) -> Teacher:
    """A teacher from its settings: `_target_` and the keywords of that class."""
    made: Teacher = make(settings)
    return made

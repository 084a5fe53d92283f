"""Judges, which grade how far an action follows the current plan step (adherence), and how good a plan is.

For an action a judge sees the step, the observation before the action, the action and the environment's reply; never the
goal, so that it cannot reward an action for being clever. What the environment rejected it is not asked about (`grading`).
For a plan it sees what the planner saw, including the goal. A judge is one Python file with a class and one YAML file
`conf/judge/NAME.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from pilotrl.config.instantiate import make
from pilotrl.types import Plan, PlanScores, UserError

if TYPE_CHECKING:
    from pilotrl.endpoint import Endpoint

Resolve = Callable[[str, str, str], str]
"""(observation, action, reply) -> what the action did, in words; "" for nothing. An empty reply is one that is not known."""


class Item(NamedTuple):
    """An action to be graded against a plan step."""

    step: str
    observation: str
    """Before the action."""
    action: str
    reply: str = ""
    """The environment's answer; empty if it is not known."""
    lasts: bool = False
    """The step lasts until the planner says that it is done: the action has to serve it, and need not complete it."""
    meant: str = ""
    """What the expert would do now under a step that lasts, as an exact step; empty if it has no such step, or there is none."""


class PlanItem(NamedTuple):
    """A plan to be graded, with what its planner had seen, and the expert's plan for the same state."""

    first: str
    """The first observation, which holds the instruction."""
    latest: str
    """The last observation before the plan; the first one before any action."""
    actions: tuple[str, ...]
    """The actions so far."""
    steps: Plan
    """From the next action on; may be empty."""
    reference: Plan
    """The expert's steps from the same state; empty if the environment ships no expert."""
    lasts: bool = False
    """Steps last as long as they take, in both plans; else each is for one action."""


class Judge(Protocol):
    """The protocol of a judge."""

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        """One verdict an item, in order: 0 ignores the step, 1 follows it in part, 2 in full; None if it cannot be parsed.

        Raises WorldError when the judge itself fails.
        """
        ...

    def grade_plans(self, items: Sequence[PlanItem]) -> list[PlanScores | None]:
        """Three scores a plan, 1 to 5, in order; None if the verdict cannot be parsed.

        Raises WorldError when the judge itself fails.
        """
        ...


@runtime_checkable
class RemoteJudge(Judge, Protocol):
    """A judge that is an API model, or several: it starts grading an episode while others are still running."""

    def begin(self, items: Sequence[Item], plans: Sequence[PlanItem] = ()) -> None:
        """Start requests for what `grade` and `grade_plans` will be asked; returns at once."""
        ...

    def endpoints(self) -> Sequence[Endpoint]:
        """The endpoints it uses, which are probed before a run."""
        ...


def build(settings: dict[str, Any], resolve: Resolve | None) -> Judge:
    """A judge from its settings: `_target_` and the keywords of that class. `resolve`: None for actions that are words.

    Raises UserError for a `resolve` that takes other arguments."""
    if resolve is not None and len(signature(resolve).parameters) != 3:
        asked = ", ".join(signature(resolve).parameters)
        raise UserError(f"env: its resolve({asked}) must take three arguments: resolve(observation, action, reply)")
    made: Judge = make(settings, resolve=resolve)
    return made

"""The judge contract: who grades how far an action follows the plan step in force, and how good a plan is.

Of an action a judge sees the step, what the player saw before acting, and the action; never the goal, so that it cannot
reward an action for being clever. Of a plan it sees what its writer saw, the goal too. A judge is one Python file with a
class and one YAML file `conf/judge/NAME.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from pilotrl.config.instantiate import make
from pilotrl.types import Plan, PlanScores

if TYPE_CHECKING:
    from pilotrl.endpoint import Endpoint

Item = tuple[str, str, str]
"""(step, observation before acting, action)."""


class PlanItem(NamedTuple):
    """A plan, what its writer had seen, and what the environment's own expert would have written."""

    first: str
    """The first observation, which holds the instruction."""
    latest: str
    """The last observation before the plan; the first one, where nothing was done yet."""
    actions: tuple[str, ...]
    """Done so far."""
    steps: Plan
    """From the next action on; may be empty."""
    reference: Plan
    """The expert's steps from the same state; empty where the environment ships no expert."""


class Judge(Protocol):
    """Whoever grades."""

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        """One verdict an item, in order: 0 ignores the step, 1 in part, 2 in full; None where it cannot be read.

        Raises WorldError when the judge itself fails.
        """
        ...

    def grade_plans(self, items: Sequence[PlanItem]) -> list[PlanScores | None]:
        """Three scores a plan, 1 to 5, in order; None where the verdict cannot be read.

        Raises WorldError when the judge itself fails.
        """
        ...


@runtime_checkable
class RemoteJudge(Judge, Protocol):
    """A judge that asks endpoints, which takes time: it begins early."""

    def begin(self, items: Sequence[Item], plans: Sequence[PlanItem] = ()) -> None:
        """Start on what `grade` and `grade_plans` will be asked for; returns at once."""
        ...

    def endpoints(self) -> Sequence[Endpoint]:
        """Whom it asks."""
        ...


def build(settings: dict[str, Any], resolve: Any) -> Judge:
    """A judge from its settings: `_target_` and the keywords of that class."""
    made: Judge = make(settings, resolve=resolve)
    return made

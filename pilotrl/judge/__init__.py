"""The judge contract: who grades how far an action follows the plan step in force.

A judge sees the step, what the player saw before acting, and the action; never the goal, so that it cannot reward an
action for being clever. A judge is one Python file with a class and one YAML file `conf/judge/NAME.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Item = tuple[str, str, str]
"""(step, observation before acting, action)."""


class Judge(Protocol):
    """Whoever grades adherence."""

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        """One verdict an item, in order: 0 ignores the step, 1 in part, 2 in full; None where it cannot be read.

        Raises WorldError when the judge itself fails.
        """
        ...

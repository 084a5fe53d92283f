"""A judge made of rules over words: fast, free, the same everywhere. docs/judge.md tells the rules and where they err.

The verdict on an action compares what it says with what the step asks for, as `reading` finds it; plans are graded in
`plans`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from pilotrl.rewards.judge import Item, PlanItem
from pilotrl.rewards.judge.lexicon import BARE
from pilotrl.rewards.judge.plan_rules import grade_plan
from pilotrl.rewards.judge.step_parser import Deed, Step, read_action, read_step
from pilotrl.types import PlanScores

Resolve = Callable[[str, str], str]
"""(observation, action) -> what the action refers to, in words; "" where it refers to nothing there."""


class RuleJudge:
    """Grades by rules. `resolve` is the environment's, where its actions are opaque handles; else None."""

    def __init__(self, *, resolve: Resolve | None) -> None:
        self.resolve = resolve

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        """One verdict an item: 0, 1 or 2, and never None, since rules can always be read."""
        return [verdict(step, self._said(observation, action)) for step, observation, action in items]

    def grade_plans(self, items: Sequence[PlanItem]) -> list[PlanScores | None]:
        """Three scores a plan, and never None."""
        return [grade_plan(item) for item in items]

    def _said(self, observation: str, action: str) -> str:
        return self.resolve(observation, action) if self.resolve else action


@lru_cache(maxsize=65536)
def verdict(step: str, said: str) -> int:
    """0 ignores the step, 1 in part, 2 in full, for an action put into words; "" is an action that means nothing."""
    asked, deed = read_step(step), read_action(said)
    if not deed.kinds:
        return 0
    if asked.vacuous:
        return 1  # whatever is done follows it, and nothing follows it in full
    shared = (asked.kinds or deed.kinds - BARE) & deed.kinds
    if shared & BARE:
        return 2
    if "back" in asked.kinds and "home" in deed.kinds:
        return 1  # back, but too far
    return _same_kind(asked, deed, shared) if shared else _other_kind(asked, deed)


def _same_kind(asked: Step, deed: Deed, shared: frozenset[str]) -> int:
    if deed.alone and shared - {"guess"}:
        return 2
    if not deed.words:
        return 0
    due = asked.words
    if "search" in shared:
        due -= asked.prices  # a price cannot be searched for
    elif "go" in shared and asked.place is not None:
        due = asked.place
    met = _met(due, asked, deed)
    full = met == len(due) and _within(asked, deed)
    if "search" in shared and due and len(deed.words - due) > len(due) + 2:
        full = False  # a query stuffed with words
    return 2 if full else int(2 * met >= len(due))


def _other_kind(asked: Step, deed: Deed) -> int:
    """The right object may still be met by the wrong deed; a lone word without a verb is no deed."""
    due = asked.words - asked.prices
    return int(bool(due) and deed.kinds != {"guess"} and _met(due, asked, deed) == len(due))


def _met(due: frozenset[str], asked: Step, deed: Deed) -> int:
    glued = {word for *pair, one in asked.pairs if one in deed.words for word in pair}
    apart = {one for _, _, one in deed.pairs}
    return len(due & (deed.words | glued | apart))


def _within(asked: Step, deed: Deed) -> bool:
    return not deed.prices or (asked.least <= max(deed.prices) and min(deed.prices) <= asked.most)

"""The rule judge: grades by rules over words, without a model; fast and deterministic. docs/judge.md lists the rules.

The verdict on an action compares its verb and object with those of the step, as `step_parser` reads them; plans are graded in
`plan_rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pilotrl.rewards.judge import Item, PlanItem, Resolve
from pilotrl.rewards.judge.lexicon import ANY_KIND, BARE
from pilotrl.rewards.judge.plan_rules import grade_plan
from pilotrl.rewards.judge.step_parser import Deed, Step, Thing, read_action, read_step
from pilotrl.types import PlanScores


class RuleJudge:
    """Grades by rules. `resolve` says what an action did, in words; None for an environment whose actions are words."""

    def __init__(self, *, resolve: Resolve | None) -> None:
        self.resolve = resolve

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        """One verdict an item: 0, 1 or 2, and never None."""
        return [self._verdict(Item(*item)) for item in items]

    def grade_plans(self, items: Sequence[PlanItem]) -> list[PlanScores | None]:
        """Three scores a plan, and never None."""
        return [grade_plan(item) for item in items]

    def _verdict(self, item: Item) -> int:
        """Under a step that lasts, the better of two: by its own words, and by what the expert would do now under it."""
        done = self._done(item)
        return max(verdict(item.step, done), verdict(item.meant, done) if item.meant else 0)

    def _done(self, item: Item) -> str:
        return self.resolve(item.observation, item.action, item.reply) if self.resolve else item.action


@lru_cache(maxsize=65536)
def verdict(step: str, said: str) -> int:
    """0 ignores the step, 1 follows it in part, 2 in full; `said` is what the action did, in words, "" for nothing."""
    asked, deed = read_step(step), read_action(said)
    if not deed.kinds:
        return 0
    if asked.vacuous:
        return 1  # a step that says nothing: any action follows it in part
    shared = (asked.kinds or deed.kinds - BARE) & deed.kinds
    if shared & BARE:
        return 2
    if "back" in asked.kinds and "home" in deed.kinds:
        return 1  # further back than asked
    return _same_kind(asked, deed, shared) if shared else _other_kind(asked, deed)


def _same_kind(asked: Step, deed: Deed, shared: frozenset[str]) -> int:
    if deed.alone and shared - {"guess"}:
        return 0 if asked.words and "look" in shared else 2  # a look around looks at nothing in particular
    if not deed.words:
        return 0
    if deed.counted and asked.words:
        return _same_thing(asked.thing, deed.thing)
    due = asked.words
    if "search" in shared:
        due -= asked.prices  # a price cannot be searched for
    elif "go" in shared and asked.place is not None:
        due = asked.place
    met = _met(due, asked, deed)
    full = met == len(due) and _within(asked, deed)
    if "search" in shared and due and len(deed.words - due) > len(due) + 2:
        full = False  # a query with too many words of its own
    head = {asked.thing.head} & due if shared & {"go", "take", "drop"} else frozenset()
    other = bool(head) and not _met(frozenset(head), asked, deed)  # the red key for the red ball
    return 2 if full else int(2 * met >= len(due) and not other)


def _same_thing(asked: Thing, done: Thing) -> int:
    """Whether so many of a thing were made or taken: 2; 1 for another number or other ingredients than were named, and for a
    thing that the step calls by less or more than its name; 0 for another thing, which may share words."""
    kind = asked.names <= done.names and asked.names <= ANY_KIND
    if asked.names == done.names or kind:
        return 2 if asked.amounts <= done.amounts and asked.means <= done.means else 1
    return int(asked.head == done.head and (asked.names <= done.names or done.names <= asked.names))


def _other_kind(asked: Step, deed: Deed) -> int:
    """1 for another kind of deed on the right object, else 0; a single word without a verb is no deed."""
    due = asked.words - asked.prices
    return int(bool(due) and deed.kinds != {"guess"} and _met(due, asked, deed) == len(due))


def _met(due: frozenset[str], asked: Step, deed: Deed) -> int:
    glued = {word for *pair, one in asked.pairs if one in deed.words for word in pair}
    apart = {one for _, _, one in deed.pairs}
    return len(due & (deed.words | glued | apart))


def _within(asked: Step, deed: Deed) -> bool:
    return not deed.prices or (asked.least <= max(deed.prices) and min(deed.prices) <= asked.most)

"""What a mission asks for, read from its words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pilotrl.envs.babyai.view import Cell, Pose, Thing

SIDES = {"in front of you": (0, 1), "behind you": (0, -1), "on your right": (1, 1), "on your left": (1, -1)}
"""Where a thing is at the start: which of (ahead, right) tells, and its sign."""
THING = rf"(?:a|the) (?:(\w+) )??(ball|box|key|door|object)(?: ({'|'.join(SIDES)}))?"
GOAL = re.compile(rf"(go to|pick up|open|put) {THING}(?: next to {THING})?")


class Kind(NamedTuple):
    """Things that a phrase can mean: any color, kind or side where None."""

    color: str | None
    kind: str | None
    side: str | None

    def means(self, thing: Thing, cell: Cell, start: Pose) -> bool:
        """Whether it means this thing, which was at that cell when the player was at `start`."""
        if self.side is not None:
            axis, sign = SIDES[self.side]
            if start.relative(cell)[axis] * sign <= 0:
                return False
        return thing.kind != "wall" and self.color in (None, thing.color) and self.kind in (None, thing.kind)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.color, self.kind or "object")))


class Goal(NamedTuple):
    """One thing to be done."""

    verb: str
    what: Kind
    near: Kind | None


def read(mission: str) -> list[Goal]:
    """Goals in an order that is right whatever the mission left unsaid.

    "A, and B" was "A, then B". "A and B" was that, in any order, or "A after you B": B first does for both.
    """
    return [goal for part in mission.split(", and ") for goal in reversed(list(_goals(part)))]


def _goals(part: str) -> Iterator[Goal]:
    for verb, color, kind, side, *other in GOAL.findall(part):
        near = _kind(*other) if other[1] else None
        yield Goal(verb, _kind(color, kind, side), near)


def _kind(color: str, kind: str, side: str) -> Kind:
    return Kind(color or None, None if kind == "object" else kind, side or None)

"""The parser of missions: from a mission's text to a list of goals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pilotrl.envs.babyai.view import Cell, Pose, Thing

SIDES = {"in front of you": (0, 1), "behind you": (0, -1), "on your right": (1, 1), "on your left": (1, -1)}
"""Where a thing is at the start -> (index into (ahead, right), sign of that coordinate)."""
THING = rf"(?:a|the) (?:(\w+) )??(ball|box|key|door|object)(?: ({'|'.join(SIDES)}))?"
GOAL = re.compile(rf"(go to|pick up|open|put) {THING}(?: next to {THING})?")


class Kind(NamedTuple):
    """The things that a phrase can mean; None stands for any color, kind or side."""

    color: str | None
    kind: str | None
    side: str | None

    def means(self, thing: Thing, cell: Cell, start: Pose) -> bool:
        """Whether it can mean this thing at that cell, seen from the pose `start`."""
        if self.side is not None:
            axis, sign = SIDES[self.side]
            if start.relative(cell)[axis] * sign <= 0:
                return False
        return thing.kind != "wall" and self.color in (None, thing.color) and self.kind in (None, thing.kind)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.color, self.kind or "object")))


class Goal(NamedTuple):
    """One goal of a mission: a verb with its object."""

    verb: str
    what: Kind
    near: Kind | None


def read(mission: str) -> list[Goal]:
    """The goals, in an order that is valid for every mission with this text.

    AgentGym writes "A, and B" for "A, then B", and "A and B" both for any order and for "A after you B": B comes first.
    """
    return [goal for part in mission.split(", and ") for goal in reversed(list(_goals(part)))]


def _goals(part: str) -> Iterator[Goal]:
    for verb, color, kind, side, *other in GOAL.findall(part):
        near = _kind(*other) if other[1] else None
        yield Goal(verb, _kind(color, kind, side), near)


def _kind(color: str, kind: str, side: str) -> Kind:
    return Kind(color or None, None if kind == "object" else kind, side or None)

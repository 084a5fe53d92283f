"""The scripted expert of IQA: looks along the walls, opens closed furniture, and answers as soon as the answer is certain.

It uses the observations and nothing else. A plan simulates its rule, assuming that nothing new is found; when something is,
the next plan differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pilotrl.envs.iqa import questions
from pilotrl.envs.iqa.questions import Question
from pilotrl.envs.iqa.room import Cell, Pose, Size, border, kind, sight, truth

HORIZON = 40
"""Maximum number of steps of a plan."""
SIDE = re.compile(r"(In front of you|On your left|On your right), you see (.*?)\.(?= |$)")
PIECE = re.compile(r"(?:^|; )a (closed )?(\w+)(?: with ([^;]*))?")
OPENED = re.compile(r"You open the (\w+)\. In it, you see (.*)\.")
FREE = re.compile(r"Free steps: (\d+) ahead, (\d+) left, (\d+) right, (\d+) behind\.")
THING = re.compile(r"a (\w+)")


@dataclass(slots=True)
class Notes:
    """The belief state of the expert. Its initial direction counts as north; the floor's size follows from the free steps."""

    question: Question
    size: Size
    pose: Pose
    seen: frozenset[Cell] = frozenset()
    """Squares along the walls that were in sight."""
    closed: dict[str, Pose] = field(default_factory=dict)
    """Closed piece -> a pose that has it in front."""
    things: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Piece whose inside was seen -> things there."""

    @classmethod
    def of(cls, observation: str, view: int) -> Notes:
        """From the first observation."""
        question, _, seen = observation.partition("\n")
        free = FREE.search(seen)
        assert free is not None
        ahead, left, right, behind = map(int, free.groups())
        size = Size(left + right + 1, ahead + behind + 1, view)
        notes = cls(questions.read(question), size, Pose(left, behind, 0))
        notes.look(seen)
        return notes

    def copy(self) -> Notes:
        """A copy that can be changed independently."""
        return replace(self, closed=dict(self.closed), things=dict(self.things))

    def read(self, action: str, reply: str) -> None:
        """Update from the reply to an action."""
        if opened := OPENED.match(reply):
            self.closed.pop(opened[1], None)
            self.things[opened[1]] = tuple(THING.findall(opened[2]))
        elif FREE.search(reply):
            self.pose = _after(self.pose, action)
            self.look(reply)

    def look(self, said: str) -> None:
        """Add the furniture in a text; pieces on a side get the pose that has them in front."""
        self.seen |= frozenset(sight(self.size, self.pose))
        turns = {"In front of you": 0, "On your left": -1, "On your right": 1}
        for words, pieces in SIDE.findall(said):
            for closed, piece, things in PIECE.findall(pieces):
                if closed:
                    self.closed[piece] = self.pose.turned(turns[words])
                else:
                    self.things[piece] = tuple(THING.findall(things))

    def answer(self) -> str | None:
        """The answer, if it is certain."""
        so_far = truth(self.question._asdict(), self.things)
        if so_far in ("True", "3"):
            return so_far
        return None if self.unseen() or self.wanted() else so_far

    def unseen(self) -> frozenset[Cell]:
        return frozenset(border(self.size)) - self.seen

    def wanted(self) -> list[str]:
        """Closed pieces that matter to the question."""
        question = self.question
        return [piece for piece in self.closed if question.type != "contains" or kind(piece) == question.container]


class IqaExpert:
    """The expert: goes to the nearest pose that shows something new."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def plan(self) -> list[str]:
        """Steps from the next turn to the answer, if nothing new is found."""
        steps = [_step(action) for action in self._way()]
        return [*steps, "report the result" if steps else _conclusion(self.action())]

    def loose(self) -> list[str]:
        """The same steps without directions, names and the answer."""
        opens = (action.startswith("open ") for action in self._way())
        return [
            *("look inside it" if one else "look where you have not looked yet" for one in opens),
            "report the result",
        ]

    def equal(self, action: str) -> str:
        """Another closed piece in front, or the beginning of another way to something new that is as short."""
        return _step(action) if action in _choices(self.notes) else ""

    def subgoals(self) -> list[str]:
        """Look for the thing until the answer is certain, then report it."""
        asked, thing, container = self.notes.question
        inside = f" in the {questions.WHERE.get(container, container)}" if asked == "contains" else ""
        return [f"look for the {thing}{inside}"] * len(self._way()) + [f"report on the {thing}"]

    def _way(self) -> list[str]:
        """Actions from here until the answer is certain, if nothing new is found."""
        notes, way = self.notes.copy(), list[str]()
        while len(way) < HORIZON and (action := _next(notes)) is not None:
            way.append(action)
            _imagine(notes, action)
        return way

    def action(self) -> str:
        """The next action."""
        return (
            _next(self.notes)
            or f"answer [{self.notes.answer() or truth(self.notes.question._asdict(), self.notes.things)}]"
        )

    def thought(self) -> str:
        """What was found, where last, and whether there is more to see: `no mug so far; seen sink_1; closed fridge_1`."""
        notes, (asked, thing, container) = self.notes, self.notes.question
        pieces = [piece for piece in notes.things if asked != "contains" or kind(piece) == container]
        count = sum(kind(held) == thing for piece in pieces for held in notes.things[piece])
        inside = f" in the {container}" if asked == "contains" else ""
        parts = [
            f"{count or 'no'} {thing}{inside} so far",
            f"seen {', '.join(list(notes.things)[-2:])}" if notes.things else "",
            f"closed {', '.join(notes.wanted()[:2])}" if notes.wanted() else "",
            "more to see" if notes.unseen() else "all walls seen",
        ]
        return "; ".join(filter(None, parts))

    def detour(self) -> str | None:
        """Open the closed piece in front, whether or not it matters to the question."""
        notes = self.notes
        return next((f"open {piece}" for piece, pose in notes.closed.items() if pose == notes.pose), None)


def _conclusion(action: str) -> str:
    said = action.removeprefix("answer [").rstrip("]")
    return {"True": "say that it is true", "False": "say that it is false"}.get(said, f"report {said}")


def _step(action: str) -> str:
    """An action as a plan step, in other words than its own."""
    if action.startswith("open "):
        return f"look inside {action.removeprefix('open ').replace('_', ' ')}"
    return {"turn left": "look to the left", "turn right": "look to the right"}.get(action, "walk on ahead")


def _next(notes: Notes) -> str | None:
    """The next action of an efficient agent; None when it would answer."""
    return next(iter(_choices(notes)), None)


def _choices(notes: Notes) -> list[str]:
    """The actions of an efficient agent that are equally good; none when it would answer."""
    if notes.answer() is not None:
        return []
    if here := [f"open {piece}" for piece in notes.wanted() if notes.closed[piece] == notes.pose]:
        return here
    unseen, faced = notes.unseen(), {notes.closed[piece] for piece in notes.wanted()}
    return _towards(notes, lambda pose: pose in faced or bool(unseen & sight(notes.size, pose).keys()))


def _towards(notes: Notes, wanted: Callable[[Pose], bool]) -> list[str]:
    """The first actions of all shortest paths to poses that are `wanted`; none if there is none."""
    edge, known = {notes.pose: {"": None}}, {notes.pose}
    while edge:
        if found := [first for pose, firsts in edge.items() for first in firsts if first and wanted(pose)]:
            return list(dict.fromkeys(found))
        beyond: dict[Pose, dict[str, None]] = {}
        for pose, firsts in edge.items():
            for action in ("move ahead", "turn left", "turn right"):
                there = _after(pose, action)
                if there not in known and notes.size.floor((there.x, there.y)):
                    beyond.setdefault(there, {}).update(dict.fromkeys(first or action for first in firsts))
        known |= beyond.keys()
        edge = beyond
    return []


def _after(pose: Pose, action: str) -> Pose:
    if action == "move ahead":
        return Pose(*pose.front, pose.facing)
    return pose.turned(1 if action == "turn right" else -1)


def _imagine(notes: Notes, action: str) -> None:
    """Simulate an action, assuming that nothing new is found."""
    if action.startswith("open "):
        piece = action.removeprefix("open ")
        del notes.closed[piece]
        notes.things[piece] = ()
    else:
        notes.pose = _after(notes.pose, action)
        notes.seen |= frozenset(sight(notes.size, notes.pose))

"""The scripted expert of BabyAI. One rule gives the next move from the belief state; a plan simulates that rule.

Its map holds only cells that came into view. If nothing known helps it explores, for as many new cells a turn as possible, and
the plan assumes that the wanted thing is found there.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pilotrl.envs.babyai.belief import Mind, beside
from pilotrl.envs.babyai.commands import LIST, commands
from pilotrl.envs.babyai.goals import Goal, Kind
from pilotrl.envs.babyai.view import FORWARD, LEFT, PICKUP, RIGHT, TOGGLE, Cell, Pose, Way

HORIZON = 20
"""Maximum number of steps of a plan."""
REACH = 12
"""Maximum number of turns of a path that is searched for."""
AROUND = 5
"""Maximum number of turns of an exploration move, unless nothing new is that near."""
DUE = {
    "go to": "find the one that is asked for",
    "open": "open the one that is asked for",
    "pick up": "get the one that is asked for",
    "put": "get the one that is asked for",
}
"""Loose steps towards a goal, by its verb."""

DEEDS = {"go to": "reach", "open": "open", "pick up": "get", "put": "get"}
"""Verb of a step that does what a goal asks for first."""


class Move(NamedTuple):
    """An action with its moves; `looks`: it explores."""

    action: str
    way: Way
    looks: bool = False


class BabyAiExpert:
    """The expert: goes to things it has seen, explores for those it has not, fetches the keys it needs."""

    def __init__(self, mind: Mind, asked: bool = False) -> None:
        """`asked`: the last action was `check available actions`."""
        self.mind, self.asked = mind, asked
        mind.meant()

    def plan(self) -> list[str]:
        """Steps from the next turn to the end; after an exploration move, those that remain if it finds the wanted thing."""
        return [step for step, *_ in self._steps()]

    def loose(self) -> list[str]:
        """The same steps without directions and names of things."""
        return [step for _, step, _ in self._steps()]

    def equal(self, action: str) -> str:
        """Another thing that is asked for, another way there that is as short, or one on which as much comes into view."""
        found = (move for move in _choices(self.mind) if move.action == action)
        return next((_step(self.mind, move, first=True) for move in found), "")

    def subgoals(self) -> list[str]:
        """What the mission asks for, a part at a time."""
        return [step for *_, step in self._steps()]

    def _steps(self) -> list[tuple[str, str, str]]:
        """Each step of the plan, in both wordings, and the part of the mission that it is for."""
        mind, steps = self.mind.copy(), list[tuple[str, str, str]]()
        while len(steps) < HORIZON:
            move, goal = _next(mind), _due(mind)
            steps.append((_step(mind, move, first=not steps), _loose(mind, goal), _subgoal(mind, goal)))
            mind.do(move.way)
            if move.looks:
                return steps + _hoped(mind, goal)
            if not mind.goals:
                break
        return steps

    def action(self) -> str:
        """The next action."""
        return _next(self.mind).action

    def thought(self) -> str:
        """Where the wanted thing was seen, else what is in view, and what is carried: `red key is ahead; holding blue box`."""
        mind, (_, what, near) = self.mind, _due(self.mind)
        held = mind.carrying
        wanted = near if near and held and what._replace(side=None).means(held, (0, 0), mind.start) else what
        hands = f"; holding {held.color} {held.kind}" if held else ""
        cells = sorted(mind.where(wanted), key=lambda cell: sum(map(abs, mind.pose.relative(cell))))
        if cells and (thing := mind.cells[cells[0]]):
            state = f", {thing.state}" if thing.state else ""
            return f"{wanted} is {_direction(mind.pose, cells[0])}{state}{hands}"
        seen = [f"{thing.color} {thing.kind}" for _, thing in mind.view().things() if thing.kind != "wall"]
        return f"no {wanted} yet; here {', '.join(seen[:2]) or 'is nothing'}{hands}"

    def detour(self) -> str | None:
        """`check available actions`, unless that was the last action."""
        return None if self.asked else LIST


def _direction(pose: Pose, cell: Cell) -> str:
    ahead, right = pose.relative(cell)
    forth = "ahead" if ahead > 0 else "behind" if ahead < 0 else ""
    return " ".join(filter(None, (forth, "right" if right > 0 else "left" if right < 0 else "")))


def _due(mind: Mind) -> Goal:
    return mind.goals[0]


def _step(mind: Mind, move: Move, first: bool) -> str:
    """A move as a plan step, in other words than those of its action. Only things in sight now have a number."""
    action, (_, cell), _ = move
    thing = mind.cells.get(cell) if cell else None
    if thing is None or cell is None:
        if action == "drop":
            return f"put down the {mind.carrying.color} {mind.carrying.kind}" if mind.carrying else "let go"
        return {"turn left": "look to the left", "turn right": "look to the right"}.get(action, "walk on ahead")
    number = re.search(r" (\d+)$", action)
    several = first and number and sum(other == thing for _, other in mind.view().things()) > 1
    name = f"{thing.color} {thing.kind}{number[0] if several and number else ''}"
    if "toggle" in action:
        return f"open the {name}"
    if action.startswith("go through"):
        return f"pass through the {name}"
    return f"get the {name}" if action.startswith("pickup") else f"reach the {name}"


def _loose(mind: Mind, due: Goal) -> str:
    """What the next moves are for: a loose plan step."""
    held = mind.carrying
    if due.verb == "put" and held is not None and due.what._replace(side=None).means(held, (0, 0), mind.start):
        return "bring it beside the other"
    if due.verb in ("put", "pick up") and held is not None and mind.where(due.what):
        return "put this down"
    return DUE[due.verb]


def _subgoal(mind: Mind, due: Goal) -> str:
    """The part of the mission that the next moves are for."""
    verb, what, near = due
    held = mind.carrying
    if verb == "put" and held is not None and what._replace(side=None).means(held, (0, 0), mind.start):
        return f"put the {what} beside the {near}"
    return f"{DEEDS[verb]} the {what}"


def _hoped(mind: Mind, due: Goal) -> list[tuple[str, str, str]]:
    """The steps that remain once the wanted thing is in sight, in both wordings, and the part of the mission that each is for."""
    goals = [due, *(goal for goal in mind.goals if goal is not due)]
    steps = []
    for verb, what, near in goals:
        part = f"{DEEDS[verb]} the {what}"
        if verb == "put":
            held = mind.carrying and mind.carrying.kind == what.kind
            steps += [] if held else [(part, DUE[verb], part)]
            beside = f"put the {what} beside the {near}"
            steps += [(s, "bring it beside the other", beside) for s in (f"reach the {near}", f"put down the {what}")]
        else:
            steps.append((part, DUE[verb], part))
    return steps


# The rule


def _next(mind: Mind) -> Move:
    """The next move of an efficient agent."""
    return _choices(mind)[0]


def _choices(mind: Mind) -> list[Move]:
    """The moves of an efficient agent that are equally good; the expert makes the first."""
    verb, what, near = _due(mind)
    if verb == "go to":
        return _reach(mind, mind.where(what)) or _look(mind)
    if verb == "pick up":
        return _fetch(mind, what)
    if verb == "open":
        return _open(mind, [cell for cell in mind.where(what) if (door := mind.cells[cell]) and door.state != "open"])
    if near is None or mind.carrying is None or not what._replace(side=None).means(mind.carrying, (0, 0), mind.start):
        return _fetch(mind, what)
    return _bring(mind, near)


def _fetch(mind: Mind, what: Kind) -> list[Move]:
    """Pick up a thing, after putting down what is carried."""
    if mind.carrying is not None and mind.where(what):
        return _put_down(mind)
    return _reach(mind, mind.where(what), "pickup") or _look(mind)


def _open(mind: Mind, doors: list[Cell]) -> list[Move]:
    """Open one of some doors, from in front of it; a locked one needs its key. (Walking through would miss the end.)"""
    for cell in doors:
        door = mind.cells[cell]
        if door and door.state == "locked" and (mind.carrying is None or mind.carrying[:2] != ("key", door.color)):
            return _fetch(mind, Kind(door.color, "key", None))
    return (_now(mind, "toggle") if mind.pose.front in doors else []) or _reach(mind, doors) or _look(mind)


def _put_down(mind: Mind) -> list[Move]:
    """Put down what is carried: here if the cell in front is free, else after a turn or a step."""
    way = _search(mind, REACH, lambda at, pose: at.cells.get(pose.front, WALL) is None)
    return _now(mind, "drop") or way or _any(mind)


def _bring(mind: Mind, near: Kind) -> list[Move]:
    """Put what is carried next to one of some things."""
    beside_it = {cell for there in mind.where(near) for cell in beside(there) if mind.cells.get(cell, WALL) is None}
    if mind.pose.front in beside_it and (drop := _now(mind, "drop")):
        return drop
    return _search(mind, REACH, lambda _, pose: pose.front in beside_it) or _look(mind)


WALL = object()


def _now(mind: Mind, action: str) -> list[Move]:
    way = commands(mind.view()).ways.get(action)
    return [Move(action, way)] if way else []


def _any(mind: Mind) -> list[Move]:
    return [Move("turn left", Way([LEFT]))]


def _reach(mind: Mind, cells: list[Cell], verb: str = "go to") -> list[Move]:
    """Actions with this verb on one of the cells if any is possible now, the shortest first; else moves that lead there."""

    def able(at: Mind, pose: Pose) -> dict[str, Way]:
        if not any(_in_square(pose, cell) for cell in cells):
            return {}
        ways = commands(at.view(pose)).ways
        named = {name: way for name, way in ways.items() if way.cell in cells and name.startswith(verb) and way.moves}
        return {name: way for name, way in named.items() if _open_to(at, pose, way)}

    if found := able(mind, mind.pose):
        return [Move(name, found[name]) for name in sorted(found, key=lambda name: (len(found[name].moves), name))]
    return _search(mind, REACH, lambda at, pose: bool(able(at, pose))) if cells else []


def _in_square(pose: Pose, cell: Cell) -> bool:
    ahead, right = pose.relative(cell)
    return 0 <= ahead <= 6 and -3 <= right <= 3


def _look(mind: Mind) -> list[Move]:
    """Explore: for the most new cells a turn; else go to where any new cell comes into view; else unlock a door."""
    gains = [(mind_there.unknown(pose) / turns, move) for mind_there, pose, turns, move in _poses(mind, AROUND)]
    most = max(gain for gain, _ in gains)
    found = [move for gain, move in gains if gain == most >= 1]
    found = found or _search(mind, 3 * REACH, lambda at, pose: at.unknown(pose) > 0)
    return [move._replace(looks=True) for move in found] or _unlock(mind)


def _unlock(mind: Mind) -> list[Move]:
    """Fetch a key and open a locked door, behind which there are unseen cells."""
    for cell, door in mind.cells.items():
        if door and door.state == "locked":
            key = Kind(door.color, "key", None)
            if mind.carrying and mind.carrying[:2] == ("key", door.color):
                return _reach(mind, [cell], "toggle") or _any(mind)
            if mind.where(key):
                return _put_down(mind) if mind.carrying else _reach(mind, mind.where(key), "pickup") or _any(mind)
    return [move._replace(looks=True) for move in _any(mind)]


def _search(mind: Mind, turns: int, wanted: Callable[[Mind, Pose], bool]) -> list[Move]:
    """First actions of the shortest sequences to poses that are `wanted`; none if that takes more than `turns`."""
    found: dict[str, Move] = {}
    least = turns
    for at, pose, count, move in _poses(mind, turns):
        if count > least:
            break
        if move.action not in found and wanted(at, pose):
            found[move.action], least = move, count
    return [*found.values()]


def _poses(mind: Mind, most: int) -> Iterator[tuple[Mind, Pose, int, Move]]:
    """(belief state, pose, turns, first action) of reachable poses, in the order of turns: first by any action that is
    possible now, from there by turning and walking."""
    queue = deque[tuple[Mind, Pose, int, Move]]()
    known = {mind.pose}
    for action, way in commands(mind.view()).ways.items():
        if action == LIST or action == "drop" or action.startswith("pickup") or not way.moves:
            continue
        after = mind
        if TOGGLE in way.moves:
            after = mind.copy()
            after.do(way)
        pose = after.pose if after is not mind else _along(mind, way)
        if pose not in known or after is not mind:
            known.add(pose)
            queue.append((after, pose, 1, Move(action, way)))
    while queue:
        at, pose, turns, move = queue.popleft()
        yield at, pose, turns, move
        if turns < most:
            for step in (FORWARD, LEFT, RIGHT):
                there = pose.after(step)
                if there not in known and (step != FORWARD or at.free(there.cell)):
                    known.add(there)
                    queue.append((at, there, turns + 1, move))


def _along(mind: Mind, way: Way) -> Pose:
    """The pose after an action of only turns and steps, which ends where it is blocked."""
    pose = mind.pose
    for move in way.moves:
        if move == FORWARD and not mind.free(pose.front):
            break
        pose = pose.after(move)
    return pose


def _open_to(mind: Mind, pose: Pose, way: Way) -> bool:
    """Whether all cells of a path are known to be free: AgentGym's paths also lead over unseen cells."""
    for move in way.moves:
        if move == FORWARD and not mind.free(pose.front):
            return False
        pose = pose.after(move) if move < PICKUP else pose
    return True

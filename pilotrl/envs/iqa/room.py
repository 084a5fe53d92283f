"""The IQA simulator: a kitchen with a floor of squares, furniture along the walls, and things on and in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

NOTHING_HAPPENS = "Nothing happens."
AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))
SIDES = {"front": "In front of you", "left": "On your left", "right": "On your right"}
OPENABLE = ("cabinet", "fridge", "microwave")
CONTAINERS = (*OPENABLE, "garbagecan")
"""Kinds of furniture that questions ask about."""
FURNITURE = (*CONTAINERS, "countertop", "sink", "stove", "table")

Cell = tuple[int, int]


class Pose(NamedTuple):
    """The agent's square and direction."""

    x: int
    y: int
    facing: int

    def turned(self, way: int) -> Pose:
        return self._replace(facing=(self.facing + way) % 4)

    @property
    def front(self) -> Cell:
        return self.x + AHEAD[self.facing][0], self.y + AHEAD[self.facing][1]


class Size(NamedTuple):
    """The size of the floor in squares, and how far the agent sees."""

    wide: int
    long: int
    view: int

    def floor(self, cell: Cell) -> bool:
        return 0 <= cell[0] < self.wide and 0 <= cell[1] < self.long


@lru_cache(maxsize=4096)
def border(size: Size) -> tuple[Cell, ...]:
    """Squares along the walls, where furniture can stand."""
    across = [(x, y) for x in range(size.wide) for y in (-1, size.long)]
    along = [(x, y) for y in range(size.long) for x in (-1, size.wide)]
    return tuple(across + along)


@lru_cache(maxsize=65536)
def sight(size: Size, pose: Pose) -> dict[Cell, str]:
    """Squares along the walls that are in sight -> on which side; the nearest first, then from left to right."""
    found = []
    for cell in border(size):
        ahead, right = relative(pose, cell)
        if ahead >= 0 and max(ahead, abs(right)) <= size.view:
            side = "front" if ahead >= abs(right) else "left" if right < 0 else "right"
            found.append(((ahead + abs(right), right), cell, side))
    return {cell: side for _, cell, side in sorted(found)}


def relative(pose: Pose, cell: Cell) -> Cell:
    """(steps ahead, steps to the right) of a square."""
    (fx, fy), (rx, ry) = AHEAD[pose.facing], AHEAD[(pose.facing + 1) % 4]
    dx, dy = cell[0] - pose.x, cell[1] - pose.y
    return dx * fx + dy * fy, dx * rx + dy * ry


def free(size: Size, pose: Pose) -> tuple[int, int, int, int]:
    """Free steps ahead, to the right, behind, to the left."""
    open_ = (size.long - 1 - pose.y, size.wide - 1 - pose.x, pose.y, pose.x)
    ahead, right, behind, left = (open_[(pose.facing + way) % 4] for way in range(4))
    return ahead, right, behind, left


class Scene(NamedTuple):
    """The initial state of an episode, and its question."""

    size: Size
    start: Pose
    furniture: dict[Cell, str]
    things: dict[str, tuple[str, ...]]
    """Furniture -> things on or in it."""
    question: str
    answer: str


@dataclass(slots=True)
class Kitchen:
    """The simulator of one episode. Containers are closed at first; `do` is the only way to change its state."""

    scene: Scene
    pose: Pose = field(init=False)
    open: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.pose = self.scene.start

    def visible(self) -> dict[str, str]:
        """Furniture in sight -> on which side."""
        furniture = self.scene.furniture
        return {furniture[cell]: side for cell, side in sight(self.scene.size, self.pose).items() if cell in furniture}

    def possible(self) -> list[str]:
        """Every action that is possible now, except answers."""
        ahead = ["move ahead"] if self.scene.size.floor(self.pose.front) else []
        faced = [piece for piece, side in self.visible().items() if side == "front" and self.closed(piece)]
        return [*ahead, "turn left", "turn right", *(f"open {piece}" for piece in faced)]

    def closed(self, piece: str) -> bool:
        return kind(piece) in OPENABLE and piece not in self.open

    def do(self, action: str) -> str:
        """Carries out a possible action; returns the observation."""
        if action == "move ahead":
            self.pose = Pose(*self.pose.front, self.pose.facing)
        elif action.startswith("turn "):
            self.pose = self.pose.turned(1 if action == "turn right" else -1)
        else:
            piece = action.removeprefix("open ")
            self.open.add(piece)
            return f"You open the {piece}. In it, you see {listed(self.scene.things.get(piece, ()))}."
        return self.look()

    def look(self) -> str:
        """The observation: furniture in sight, and the free steps each way."""
        seen: dict[str, list[str]] = {side: [] for side in SIDES}
        for piece, side in self.visible().items():
            seen[side].append(self._shown(piece))
        sentences = [f"{SIDES[side]}, you see {'; '.join(pieces)}." for side, pieces in seen.items() if pieces]
        ahead, right, behind, left = free(self.scene.size, self.pose)
        steps = f"Free steps: {ahead} ahead, {left} left, {right} right, {behind} behind."
        return " ".join([*sentences, steps])

    def _shown(self, piece: str) -> str:
        if self.closed(piece):
            return f"a closed {piece}"
        things = self.scene.things.get(piece, ())
        return f"a {piece} with {listed(things)}" if things else f"a {piece}"


def kind(name: str) -> str:
    """`mug` of `mug_1`."""
    return name.partition("_")[0]


def listed(things: Iterable[str]) -> str:
    """`a mug_1, a fork_2`, or `nothing`."""
    return ", ".join(f"a {thing}" for thing in things) or "nothing"


def truth(asked: Mapping[str, str], things: Mapping[str, tuple[str, ...]]) -> str:
    """The answer to a question (`type`, `thing`, `container`) about things by furniture."""
    where = [piece for piece, inside in things.items() for thing in inside if kind(thing) == asked["thing"]]
    if asked["type"] == "count":
        return str(len(where))
    return str(any(asked["type"] == "exists" or kind(piece) == asked["container"] for piece in where))

"""The agent's view of a grid: visible cells and shortest paths over them, for the simulator and for the belief state."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

SIZE = 7
"""Side of the visible square; the agent is in the middle of the near side."""
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)
"""Minigrid's actions, called moves here."""

Cell = tuple[int, int]


class Thing(NamedTuple):
    """The contents of a cell: wall, ball, box, key or door; only doors have a `state` (open, closed, locked)."""

    kind: str
    color: str
    state: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.color, self.state, self.kind)))


class Pose(NamedTuple):
    """The agent's cell and direction."""

    x: int
    y: int
    facing: int

    @property
    def cell(self) -> Cell:
        return self.x, self.y

    @property
    def front(self) -> Cell:
        dx, dy = AHEAD[self.facing]
        return self.x + dx, self.y + dy

    def after(self, move: int) -> Pose:
        """The pose after a turn, or a step into a free cell."""
        if move == FORWARD:
            return Pose(*self.front, self.facing)
        return Pose(self.x, self.y, (self.facing + (1 if move == RIGHT else -1)) % 4)

    def relative(self, cell: Cell) -> Cell:
        """(steps ahead, steps to the right) of a cell."""
        (fx, fy), (rx, ry) = AHEAD[self.facing], AHEAD[(self.facing + 1) % 4]
        dx, dy = cell[0] - self.x, cell[1] - self.y
        return dx * fx + dy * fy, dx * rx + dy * ry

    def at(self, column: int, row: int) -> Cell:
        """The grid cell at a position in the visible square, from the far left (0, 0); the agent is at (3, 6)."""
        (fx, fy), (rx, ry) = AHEAD[self.facing], AHEAD[(self.facing + 1) % 4]
        ahead, right = SIZE - 1 - row, column - SIZE // 2
        return self.x + ahead * fx + right * rx, self.y + ahead * fy + right * ry


@dataclass(frozen=True)
class View:
    """One view of the grid: pose, what is carried, and the visible cells."""

    pose: Pose
    carrying: Thing | None
    seen: Mapping[Cell, Thing | None]
    """Visible cell -> its contents; in the order of `scan`."""

    def things(self) -> list[tuple[Cell, Thing]]:
        """The visible things with their cells, walls too, without the agent's own cell, nearest first."""
        found = [(cell, thing) for cell, thing in self.seen.items() if thing and cell != self.pose.cell]
        return sorted(found, key=lambda pair: abs(pair[0][0] - self.pose.x) + abs(pair[0][1] - self.pose.y))

    def numbered(self) -> list[tuple[str, Cell]]:
        """Names such as `red ball 1` with their cells, for all things except walls."""
        count: Counter[str] = Counter()
        names = []
        for cell, thing in self.things():
            if thing.kind != "wall":
                count[thing.name] += 1
                names.append((f"{thing.name} {count[thing.name]}", cell))
        return names

    def barrier(self) -> tuple[str, int] | None:
        """The nearest wall or box straight ahead, and its distance."""
        for cell, thing in self.things():
            ahead, right = self.pose.relative(cell)
            if right == 0 and thing.kind in ("wall", "box"):
                return thing.kind, ahead
        return None


def scan(pose: Pose) -> list[tuple[int, int, Cell]]:
    """(column, row, cell) of the visible square, row by row from the far left, as far as it is on the grid."""
    cells = [(column, row, pose.at(column, row)) for row in range(SIZE) for column in range(SIZE)]
    return [(column, row, cell) for column, row, cell in cells if min(cell) >= 0]


def sight(pose: Pose, opaque: Callable[[Cell], bool]) -> set[Cell]:
    """The visible cells: visibility spreads sideways and away from the agent, as in minigrid."""
    lit = {(SIZE // 2, SIZE - 1)}
    for row in range(SIZE - 1, -1, -1):
        for step, columns in ((1, range(SIZE - 1)), (-1, range(SIZE - 1, 0, -1))):
            for column in columns:
                if (column, row) in lit and not opaque(pose.at(column, row)):
                    lit |= {(column + step, row), (column + step, row - 1), (column, row - 1)}
    return {pose.at(column, row) for column, row in lit if row >= 0}


class Way(NamedTuple):
    """The moves of a text action, and the cell that it is about."""

    moves: list[int]
    cell: Cell | None = None


class Paths:
    """Shortest paths over the visible cells. Doors do not block a path, but walking stops at a closed one.

    Ties are broken as in AgentGym: of several parents the last one found before a pose is expanded counts.
    """

    def __init__(self, view: View) -> None:
        self.start = view.pose
        blocked = {
            cell for cell, thing in view.seen.items() if thing and thing.kind != "door" and cell != view.pose.cell
        }
        columns, rows = _window(view.pose)
        self.origin: dict[Pose, tuple[Pose, int]] = {}
        self.order: dict[Pose, None] = {}
        queue = deque([view.pose])
        while queue:
            here = queue.popleft()
            self.order[here] = None
            for move in (FORWARD, LEFT, RIGHT):
                there = here.after(move)
                if there not in self.order and there.x in columns and there.y in rows and there.cell not in blocked:
                    self.origin[there] = here, move
                    queue.append(there)

    def to(self, cell: Cell, onto: bool = False) -> list[int] | None:
        """Moves that end in front of a cell, or on it; None if no path is known."""
        end = next((pose for pose in self.order if (pose.cell if onto else pose.front) == cell), None)
        if end is None:
            return None
        moves = []
        while end != self.start:
            end, move = self.origin[end]
            moves.append(move)
        return moves[::-1]


def _window(pose: Pose) -> tuple[range, range]:
    """The area of paths: the visible square, and one more line on the sides of lower coordinates, as in AgentGym."""
    far, end = pose.at(0, 0), pose.at(SIZE, SIZE)
    one, other = (range(b, a + 1) if b < a else range(a, b) for a, b in zip(far, end, strict=True))
    return one, other

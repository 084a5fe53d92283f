"""What the player sees of a grid, and what it can do from there. The same for the real grid and for one in the mind."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

SIZE = 7
"""Side of the square that a player sees: it stands in the middle of the near side."""
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)
"""Moves of the engine."""

Cell = tuple[int, int]


class Thing(NamedTuple):
    """What a cell holds: wall, ball, box, key or door; `state` (open, closed, locked) is that of doors."""

    kind: str
    color: str
    state: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.color, self.state, self.kind)))


class Pose(NamedTuple):
    """Where the player stands, and which way it looks."""

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
        """The cell of the seen square, from the far left (0, 0) to the near right; the player is at (3, 6)."""
        (fx, fy), (rx, ry) = AHEAD[self.facing], AHEAD[(self.facing + 1) % 4]
        ahead, right = SIZE - 1 - row, column - SIZE // 2
        return self.x + ahead * fx + right * rx, self.y + ahead * fy + right * ry


@dataclass(frozen=True)
class View:
    """A look at the grid."""

    pose: Pose
    carrying: Thing | None
    seen: Mapping[Cell, Thing | None]
    """Cell in sight -> what is there; in the order of `scan`."""

    def things(self) -> list[tuple[Cell, Thing]]:
        """What is in sight beside the player, walls too, from near to far."""
        found = [(cell, thing) for cell, thing in self.seen.items() if thing and cell != self.pose.cell]
        return sorted(found, key=lambda pair: abs(pair[0][0] - self.pose.x) + abs(pair[0][1] - self.pose.y))

    def numbered(self) -> list[tuple[str, Cell]]:
        """`red ball 1` and where it is, for all that is no wall."""
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
    """(column, row, cell) of the seen square, row by row from the far left, as far as it lies on the grid."""
    cells = [(column, row, pose.at(column, row)) for row in range(SIZE) for column in range(SIZE)]
    return [(column, row, cell) for column, row, cell in cells if min(cell) >= 0]


def sight(pose: Pose, opaque: Callable[[Cell], bool]) -> set[Cell]:
    """Cells that are in sight: light spreads sideways and away from the player, as in the engine."""
    lit = {(SIZE // 2, SIZE - 1)}
    for row in range(SIZE - 1, -1, -1):
        for step, columns in ((1, range(SIZE - 1)), (-1, range(SIZE - 1, 0, -1))):
            for column in columns:
                if (column, row) in lit and not opaque(pose.at(column, row)):
                    lit |= {(column + step, row), (column + step, row - 1), (column, row - 1)}
    return {pose.at(column, row) for column, row in lit if row >= 0}


class Way(NamedTuple):
    """What an action comes down to: moves of the engine, and the cell it is about."""

    moves: list[int]
    cell: Cell | None = None


class Paths:
    """Shortest ways over what is in sight. Doors do not block: who walks into a closed one stops there.

    Ties are broken as in AgentGym: the parent that comes last before a pose's turn is the one that counts.
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
        """Moves that end in front of a cell, or on it; None where no way is known."""
        end = next((pose for pose in self.order if (pose.cell if onto else pose.front) == cell), None)
        if end is None:
            return None
        moves = []
        while end != self.start:
            end, move = self.origin[end]
            moves.append(move)
        return moves[::-1]


def _window(pose: Pose) -> tuple[range, range]:
    """Where ways may lead: the seen square, and one line more on the sides of lower numbers, as in AgentGym."""
    far, end = pose.at(0, 0), pose.at(SIZE, SIZE)
    one, other = (range(b, a + 1) if b < a else range(a, b) for a, b in zip(far, end, strict=True))
    return one, other

"""The simulator of one episode in a maze."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Cell = tuple[int, int]
"""Row and column. LMRL-Gym calls them x and y, so that down is x + 1."""

MOVES = {"move up": (-1, 0), "move down": (1, 0), "move left": (0, -1), "move right": (0, 1)}
SIDES = {"to your right": (0, 1), "to your left": (0, -1), "above you": (-1, 0), "below you": (1, 0)}
"""Side -> step to it, in the order in which an observation lists walls."""
ENGINE_MOVES = 50
"""The original answers every move after this many with `Failure`."""


class Walk:
    """The simulator of one episode: the maze, the agent's position, and the walls seen so far."""

    def __init__(self, free: frozenset[Cell], start: Cell, goal: Cell) -> None:
        self.free, self.position, self.goal = free, start, goal
        self.walls: set[Cell] = set()
        self.been = {start}
        self.actions = 0
        self._look()

    @property
    def solved(self) -> bool:
        return self.position == self.goal

    def move(self, action: str) -> str:
        """The reply to an action; one that is none of the four moves, or into a wall, leaves the position as it is."""
        self.actions += 1
        if self.actions > ENGINE_MOVES:
            return "Failure"
        target = beside(self.position, MOVES.get(action, (0, 0)))
        if target in self.free:
            self.position = target
            self.been.add(target)
            self._look()
        return "Success" if self.solved else self.view()

    def view(self) -> str:
        """The observation: positions of the goal and the agent, and the walls on the four sides."""
        walls = [side for side, way in SIDES.items() if beside(self.position, way) in self.walls]
        wall_text = f"are walls {', '.join(walls)}" if len(walls) > 1 else "is a wall " + walls[0] if walls else ""
        (row, column), (goal_row, goal_column) = self.position, self.goal
        return (
            f"The goal is at position {goal_row}, {goal_column}. Your current position is at position {row}, {column}. "
            f"There {wall_text or 'are no walls near you'}."
        )

    def _look(self) -> None:
        self.walls |= {cell for way in SIDES.values() if (cell := beside(self.position, way)) not in self.free}


def distances(goal: Cell, free: Callable[[Cell], bool], until: Cell | None = None) -> dict[Cell, int]:
    """Moves to the goal from each cell, nearest first (breadth-first search); with `until`, not from farther than that."""
    far, edge = {goal: 0}, deque([goal])
    while edge and until not in far:
        cell = edge.popleft()
        for way in MOVES.values():
            if (other := beside(cell, way)) not in far and free(other):
                far[other] = far[cell] + 1
                edge.append(other)
    return far


def apart(one: Cell, other: Cell) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def beside(cell: Cell, way: Cell) -> Cell:
    return cell[0] + way[0], cell[1] + way[1]

"""The expert of the maze: the shortest way as far as walls are known."""

from __future__ import annotations

from itertools import pairwise

from pilotrl.envs.maze.walk import MOVES, Cell, Walk, apart, beside, distances


class MazeExpert:
    """The expert: takes the shortest path to the goal through cells not known to be walls, and replans at a wall."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk

    def plan(self) -> list[str]:
        """A step for each move from here to the goal, as if all unseen cells were free."""
        return [move.replace("move", "go") for move, _ in self._way(self.walk.position)]

    def loose(self) -> list[str]:
        """The same steps without directions."""
        cells = [self.walk.position, *(cell for _, cell in self._way(self.walk.position))]
        return [self._loose(*pair) for pair in pairwise(cells)]

    def equal(self, action: str) -> str:
        """Another move with which a shortest way begins, and of which `loose` says the same."""
        here, (own, *later) = self.walk.position, self._way(self.walk.position)
        cell = beside(here, MOVES.get(action, (0, 0)))
        short = cell not in self.walk.walls and len(self._way(cell)) == len(later)
        return action.replace("move", "go") if short and self._loose(here, cell) == self._loose(here, own[1]) else ""

    def _loose(self, here: Cell, cell: Cell) -> str:
        """A move to the next cell as a loose plan step."""
        if cell in self.walk.been:
            return "go back to where you have been"
        near = apart(cell, self.walk.goal) < apart(here, self.walk.goal)
        return "get nearer the goal" if near else "get around the wall"

    def subgoals(self) -> list[str]:
        """A step for each straight part of the way: `plan` says the same of all its moves."""
        return self.plan()

    def action(self) -> str:
        """The next move. RuntimeError on the goal."""
        if self.walk.solved:
            raise RuntimeError("the episode has ended: there is no next action")
        return self._way(self.walk.position)[0][0]

    def thought(self) -> str:
        """On which sides of here the goal and walls are: `goal is down and right; walls left, up`."""
        walk, (row, column), (goal_row, goal_column) = self.walk, self.walk.position, self.walk.goal
        upright = "up" if goal_row < row else "down" if goal_row > row else ""
        across = "left" if goal_column < column else "right" if goal_column > column else ""
        walls = [move.removeprefix("move ") for move, way in MOVES.items() if beside(walk.position, way) in walk.walls]
        goal = " and ".join(filter(None, (upright, across))) or "here"
        return f"goal is {goal}; {'walls ' + ', '.join(walls) if walls else 'no walls near'}"

    def detour(self) -> None:
        """None: every action counts here."""

    def _way(self, here: Cell) -> list[tuple[str, Cell]]:
        """Moves to the goal, each with the cell that it leads to."""
        way, far = list[tuple[str, Cell]](), distances(self.walk.goal, lambda cell: cell not in self.walk.walls, here)
        while here != self.walk.goal:
            steps = {name: beside(here, move) for name, move in MOVES.items()}
            name = next(name for name, cell in steps.items() if far.get(cell) == far[here] - 1)
            way, here = [*way, (name, steps[name])], steps[name]
        return way

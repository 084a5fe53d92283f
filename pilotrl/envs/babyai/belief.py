"""The belief state of the BabyAI expert: a map of the cells seen so far, and a simulation of actions on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pilotrl.envs.babyai.goals import Goal, Kind
from pilotrl.envs.babyai.view import DROP, FORWARD, PICKUP, TOGGLE, Cell, Pose, Thing, View, Way, scan, sight


@dataclass(slots=True)
class Mind:
    """The belief state: a map of the seen cells, the agent's pose, and the remaining goals. `look` adds a view."""

    start: Pose
    pose: Pose
    every: list[Goal]
    goals: list[Goal]
    """The goals that are not met yet."""
    cells: dict[Cell, Thing | None]
    carrying: Thing | None = None
    spent: frozenset[Cell] = frozenset()
    """Cells where goals were met; if all are met and the episode goes on, the mission meant other things."""

    @classmethod
    def of(cls, view: View, goals: list[Goal]) -> Mind:
        """From the first view."""
        mind = cls(view.pose, view.pose, list(goals), list(goals), {})
        mind.look(view)
        return mind

    def copy(self) -> Mind:
        """A copy that can be changed independently."""
        return replace(self, goals=list(self.goals), cells=dict(self.cells))

    def look(self, view: View) -> None:
        """Update from the view after an action: the map, and the goals that it met."""
        shut = {cell for cell, thing in self.cells.items() if thing and thing.state not in ("", "open")}
        held, self.carrying = self.carrying, view.carrying
        self.cells |= {cell: thing for cell, thing in view.seen.items() if cell != view.pose.cell}
        self.pose = view.pose
        if door := self.cells.get(self.pose.cell):
            self.cells[self.pose.cell] = door._replace(state="open")  # a door is not in view from its own cell
        self._meet(held, shut)

    def _meet(self, held: Thing | None, shut: set[Cell]) -> None:
        """Remove the next goal, if it is met now."""
        if self.goals and (cell := self._met(self.goals[0], held, shut)):
            del self.goals[0]
            self.spent |= {cell}

    def meant(self) -> None:
        """Start over with all goals if every one is met and the episode goes on: the mission meant other things."""
        self.goals = self.goals or list(self.every)

    def _met(self, goal: Goal, held: Thing | None, shut: set[Cell]) -> Cell | None:
        """The cell where a goal is met; None if it is not."""
        front = self.pose.front
        if goal.verb == "go to":
            return front if front in self.where(goal.what) else None
        if goal.verb == "pick up":
            got = self.carrying if held is None else None
            return front if got and goal.what.means(got, front, self.start) else None
        if goal.verb == "open":
            opened = [cell for cell in shut if (door := self.cells[cell]) and door.state == "open"]
            return next((cell for cell in opened if cell in self.where(goal.what)), None)
        dropped = held if self.carrying is None else None
        near = goal.near and any(cell in self.where(goal.near) for cell in beside(front))
        return front if dropped and near and goal.what._replace(side=None).means(dropped, front, self.start) else None

    def where(self, what: Kind) -> list[Cell]:
        """Cells of the seen things that a phrase can mean."""
        return [
            cell
            for cell, thing in self.cells.items()
            if thing and cell not in self.spent and what.means(thing, cell, self.start)
        ]

    def view(self, pose: Pose | None = None) -> View:
        """The view from a pose, as far as it is known."""
        pose = pose or self.pose
        lit = sight(pose, self.opaque)
        known = {cell: self.cells[cell] for _, _, cell in scan(pose) if cell in lit and cell in self.cells}
        return View(pose, self.carrying, known)

    def opaque(self, cell: Cell) -> bool:
        thing = self.cells.get(cell)
        return thing is not None and (thing.kind == "wall" or thing.state in ("closed", "locked"))

    def unknown(self, pose: Pose) -> int:
        """Number of new cells that would come into view at a pose."""
        return sum(cell not in self.cells and min(cell) >= 0 for cell in sight(pose, self.opaque))

    def free(self, cell: Cell) -> bool:
        """Whether the agent can walk there, opening a closed door if needed."""
        thing = self.cells.get(cell)
        return cell in self.cells and (thing is None or thing.state in ("open", "closed"))

    def do(self, way: Way) -> None:
        """Simulate an action, assuming that it succeeds."""
        shut = {cell for cell, thing in self.cells.items() if thing and thing.state not in ("", "open")}
        held = self.carrying
        for move in way.moves:
            self._do(move)
        self._meet(held, shut)

    def _do(self, move: int) -> None:
        front = self.pose.front
        thing = self.cells.get(front)
        if move == FORWARD and thing and thing.state != "open":
            return
        if move < PICKUP:
            self.pose = self.pose.after(move)
        elif move == PICKUP and thing and self.carrying is None:
            self.carrying, self.cells[front] = thing, None
        elif move == DROP and thing is None:
            self.carrying, self.cells[front] = None, self.carrying
        elif move == TOGGLE and thing and thing.kind == "door":
            self.cells[front] = thing._replace(state="open")


def beside(cell: Cell) -> Iterator[Cell]:
    """The four cells next to one."""
    x, y = cell
    yield from ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1))

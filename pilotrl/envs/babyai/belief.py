"""What a player has seen of the grid, and what it imagines that its actions lead to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pilotrl.envs.babyai.goals import Goal, Kind
from pilotrl.envs.babyai.view import DROP, FORWARD, PICKUP, TOGGLE, Cell, Pose, Thing, View, Way, scan, sight


@dataclass(slots=True)
class Mind:
    """A map of what came into view, the player in it, and the goals that are left. `look` takes in a view."""

    start: Pose
    pose: Pose
    every: list[Goal]
    goals: list[Goal]
    """Those that are left."""
    cells: dict[Cell, Thing | None]
    carrying: Thing | None = None
    spent: frozenset[Cell] = frozenset()
    """Where goals were met: when all are, and nothing ends, something else was meant."""

    @classmethod
    def of(cls, view: View, goals: list[Goal]) -> Mind:
        """From the first look."""
        mind = cls(view.pose, view.pose, list(goals), list(goals), {})
        mind.look(view)
        return mind

    def copy(self) -> Mind:
        """One that can be changed without this one changing."""
        return replace(self, goals=list(self.goals), cells=dict(self.cells))

    def look(self, view: View) -> None:
        """Take in what an action led to, and which goals it met."""
        shut = {cell for cell, thing in self.cells.items() if thing and thing.state not in ("", "open")}
        held, self.carrying = self.carrying, view.carrying
        self.cells |= {cell: thing for cell, thing in view.seen.items() if cell != view.pose.cell}
        self.pose = view.pose
        if door := self.cells.get(self.pose.cell):
            self.cells[self.pose.cell] = door._replace(state="open")  # who stands in it does not see it
        self._meet(held, shut)

    def _meet(self, held: Thing | None, shut: set[Cell]) -> None:
        """Strikes off the goal that is due, if it is met now."""
        if self.goals and (cell := self._met(self.goals[0], held, shut)):
            del self.goals[0]
            self.spent |= {cell}

    def meant(self) -> None:
        """Nothing has ended though every goal is met: so something else was meant."""
        self.goals = self.goals or list(self.every)

    def _met(self, goal: Goal, held: Thing | None, shut: set[Cell]) -> Cell | None:
        """The cell where a goal is met, if it is."""
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
        """Cells of the things that a phrase can mean, as far as they were seen."""
        return [
            cell
            for cell, thing in self.cells.items()
            if thing and cell not in self.spent and what.means(thing, cell, self.start)
        ]

    def view(self, pose: Pose | None = None) -> View:
        """What one would see, as far as it is known."""
        pose = pose or self.pose
        lit = sight(pose, self.opaque)
        known = {cell: self.cells[cell] for _, _, cell in scan(pose) if cell in lit and cell in self.cells}
        return View(pose, self.carrying, known)

    def opaque(self, cell: Cell) -> bool:
        thing = self.cells.get(cell)
        return thing is not None and (thing.kind == "wall" or thing.state in ("closed", "locked"))

    def unknown(self, pose: Pose) -> int:
        """How many cells would come into view there."""
        return sum(cell not in self.cells and min(cell) >= 0 for cell in sight(pose, self.opaque))

    def free(self, cell: Cell) -> bool:
        """Can one walk there, opening a closed door if need be?"""
        thing = self.cells.get(cell)
        return cell in self.cells and (thing is None or thing.state in ("open", "closed"))

    def do(self, way: Way) -> None:
        """Imagine that an action goes as one hopes."""
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

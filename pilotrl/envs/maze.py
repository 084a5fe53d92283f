"""The maze environment: walk to a goal while seeing only adjacent walls, in the texts of LMRL-Gym (arXiv 2311.18232)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

from pilotrl.envs import Info
from pilotrl.types import UserError

Cell = tuple[int, int]
"""Row and column. LMRL-Gym calls them x and y, so that down is x + 1."""

MOVES = {"move up": (-1, 0), "move down": (1, 0), "move left": (0, -1), "move right": (0, 1)}
SIDES = {"to your right": (0, 1), "to your left": (0, -1), "above you": (-1, 0), "below you": (1, 0)}
"""Side -> step to it, in the order in which an observation lists walls."""
ORIGINAL = (
    "#############",
    "#.....#.....#",
    "###.#####.###",
    "###.#####.###",
    "###.#####.###",
    "###.......###",
    "######.######",
    "######.######",
    "######.######",
    "#############",
)
"""LMRL-Gym's only maze, two T shapes. Its goal is at the foot of the lower one."""
ORIGINAL_GOAL = (8, 6)
ENGINE_MOVES = 50
"""The original answers every move after this many with `Failure`."""
NEAREST = 3
"""Minimum number of moves from the start to the goal."""
SIZES = {"train": 2000, "dev": 200, "test": 200, "unseen": 200}
"""Number of tasks of each split."""
SEEN, UNSEEN = 200, 40
"""Number of mazes of train, dev and test together, and of the other mazes, those of unseen."""


class Source(NamedTuple):
    """The arguments that decide the tasks of a split."""

    split: str
    seed: int
    rows: int
    columns: int
    loops: float
    distance: int


class Tasks(NamedTuple):
    """The tasks of a split."""

    turns: dict[str, int]
    """Task -> moves of the expert, in the order of the split."""
    rejected: int
    """Number of candidate tasks that the expert did not solve within the turn limit."""


class Maze:
    """Walk to the goal of a maze of which only the adjacent walls are seen.

    Actions: `move up`, `move down`, `move left`, `move right`. A wall stops a move, and anything else does nothing.
    Observation: positions of the goal and the agent, and on which sides of the agent there are walls; `Success` on the goal.
    Reward: 1 on the goal, else 0. Score: the same.
    End: terminated on the goal; truncated after `max_turns`. The 51st action is answered by `Failure`.
    Arguments: `split` (train, dev, test: other starts and goals in the same mazes; unseen: other mazes; original:
    LMRL-Gym's single maze, for which only `max_turns` matters); `seed` of mazes and tasks; `rows` and `columns` with
    the outer walls (odd, 5 to 31); `loops`, the share of inner walls that are opened; `distance` from start to goal, in
    moves, at most; `max_turns`, None for 18, or the engine's 51 in the original.
    Raises UserError for values that make no maze.
    References: LMRL-Gym (arXiv 2311.18232), AgentGym (arXiv 2406.04151).
    """

    chance = 0.05

    def __init__(
        self, *, split: str, max_turns: int | None, seed: int, rows: int, columns: int, loops: float, distance: int
    ) -> None:
        for key, value, good, span in (
            ("split", split, split in (*SIZES, "original"), f"one of {', '.join(SIZES)}, original"),
            ("rows", rows, rows in range(5, 32, 2), "an odd number from 5 to 31"),
            ("columns", columns, columns in range(5, 32, 2), "an odd number from 5 to 31"),
            ("loops", loops, 0 <= loops <= 1, "from 0 to 1"),
            ("distance", distance, distance >= NEAREST, f"at least {NEAREST}"),
            ("max_turns", max_turns, max_turns in (None, *range(1, 52)), "from 1 to 51"),
        ):
            if not good:
                raise UserError(f"env.{key}={value}: must be {span}")
        self.max_turns = max_turns or (ENGINE_MOVES + 1 if split == "original" else 18)
        self._source = Source(split, seed, rows, columns, loops, distance)
        self._turns = solvable(self._source, self.max_turns).turns if self.max_turns >= NEAREST else {}
        self.tasks = list(self._turns)
        if not self.tasks:
            raise UserError(
                f"env.max_turns={self.max_turns}: no maze of split {split} can be solved in so few; raise it"
            )
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        par = self._turns[task]
        self._walk = Walk(*scene(self._source, task))
        self._taken, self._over = 0, False
        return self._walk.view(), self._info(True) | {"par": par}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self._over:
            raise RuntimeError("the episode has ended: reset first")
        self._taken += 1
        text = self._walk.move(action.strip())
        solved = self._walk.solved
        truncated = not solved and self._taken >= self.max_turns
        self._over = solved or truncated
        return text, float(solved), solved, truncated, self._info(action.strip() in MOVES)

    def _info(self, valid: bool) -> Info:
        solved = self._walk.solved
        return {"score": float(solved), "solved": solved, "valid": valid, "actions": list(MOVES)}

    @property
    def expert(self) -> MazeExpert | None:
        """The scripted expert for the running episode; None before the first reset."""
        return MazeExpert(self._walk) if hasattr(self, "_walk") else None


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
        target = _beside(self.position, MOVES.get(action, (0, 0)))
        if target in self.free:
            self.position = target
            self.been.add(target)
            self._look()
        return "Success" if self.solved else self.view()

    def view(self) -> str:
        """The observation: positions of the goal and the agent, and the walls on the four sides."""
        walls = [side for side, way in SIDES.items() if _beside(self.position, way) in self.walls]
        wall_text = f"are walls {', '.join(walls)}" if len(walls) > 1 else "is a wall " + walls[0] if walls else ""
        (row, column), (goal_row, goal_column) = self.position, self.goal
        return (
            f"The goal is at position {goal_row}, {goal_column}. Your current position is at position {row}, {column}. "
            f"There {wall_text or 'are no walls near you'}."
        )

    def _look(self) -> None:
        self.walls |= {cell for way in SIDES.values() if (cell := _beside(self.position, way)) not in self.free}


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
        cell = _beside(here, MOVES.get(action, (0, 0)))
        short = cell not in self.walk.walls and len(self._way(cell)) == len(later)
        return action.replace("move", "go") if short and self._loose(here, cell) == self._loose(here, own[1]) else ""

    def _loose(self, here: Cell, cell: Cell) -> str:
        """A move to the next cell as a loose plan step."""
        if cell in self.walk.been:
            return "go back to where you have been"
        near = _apart(cell, self.walk.goal) < _apart(here, self.walk.goal)
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
        walls = [move.removeprefix("move ") for move, way in MOVES.items() if _beside(walk.position, way) in walk.walls]
        goal = " and ".join(filter(None, (upright, across))) or "here"
        return f"goal is {goal}; {'walls ' + ', '.join(walls) if walls else 'no walls near'}"

    def detour(self) -> None:
        """None: every action counts here."""

    def _way(self, here: Cell) -> list[tuple[str, Cell]]:
        """Moves to the goal, each with the cell that it leads to."""
        way, far = list[tuple[str, Cell]](), _distances(self.walk.goal, lambda cell: cell not in self.walk.walls, here)
        while here != self.walk.goal:
            steps = {name: _beside(here, move) for name, move in MOVES.items()}
            name = next(name for name, cell in steps.items() if far.get(cell) == far[here] - 1)
            way, here = [*way, (name, steps[name])], steps[name]
        return way


def resolve(observation: str, action: str, reply: str = "") -> str:
    """The move that an action makes, in words; "" for what is none of the four, and where a wall stops it."""
    way = MOVES.get(action.strip())
    walled = any(step == way and side in observation for side, step in SIDES.items())
    return "" if way is None or walled else action.strip()


@cache
def solvable(source: Source, max_turns: int) -> Tasks:
    """The tasks of a split: candidates that the expert finishes within the limit, the same number from every maze."""
    if source.split == "original":
        starts = sorted(grid(source, None) - {ORIGINAL_GOAL})
        return _kept([_name("original", start, ORIGINAL_GOAL) for start in starts], source, max_turns, len(starts))
    numbers = mazes(source)
    found = [_kept(_candidates(source, n), source, max_turns, SIZES[source.split] // len(numbers)) for n in numbers]
    turns = [item for tasks in found for item in tasks.turns.items()]
    Random(f"order {source.seed} {source.split}").shuffle(turns)
    return Tasks(dict(turns), sum(tasks.rejected for tasks in found))


def mazes(source: Source) -> list[int]:
    """Numbers of the mazes of a split; for unseen, of those that equal none of the mazes of the other splits."""
    if source.split != "unseen":
        return list(range(SEEN))
    seen = {grid(source, number) for number in range(SEEN)}
    return [number for number in range(SEEN, SEEN + 2 * UNSEEN) if grid(source, number) not in seen][:UNSEEN]


def _kept(names: list[str], source: Source, max_turns: int, wanted: int) -> Tasks:
    """The first `wanted` candidates that the expert solves within the turn limit."""
    turns: dict[str, int] = {}
    rejected = 0
    for name in names:
        if len(turns) == wanted:
            break
        walk = Walk(*scene(source, name))
        for turn in range(1, max_turns + 1):
            walk.move(MazeExpert(walk).action())
            if walk.solved:
                turns[name] = turn
                break
        rejected += not walk.solved
    return Tasks(turns, rejected)


def _candidates(source: Source, number: int) -> list[str]:
    """Names of tasks with starts and goals at an allowed distance that a hash assigns to the split, in random order."""
    maze = grid(source, number)
    names = [
        _name(str(number), start, goal)
        for goal in sorted(maze)
        for start, far in _distances(goal, maze.__contains__).items()
        if NEAREST <= far <= source.distance and _dealt(source.seed, start, goal) == source.split
    ]
    Random(f"tasks {source.seed} {number}").shuffle(names)
    return names


def _dealt(seed: int, start: Cell, goal: Cell) -> str:
    """The split of a start and a goal, in any maze: so no first observation of one split occurs in another."""
    drawn = sha256(f"{seed} {start} {goal}".encode()).digest()[0] % 8
    return {0: "test", 1: "dev", 2: "unseen"}.get(drawn, "train")


def _name(maze: str, start: Cell, goal: Cell) -> str:
    return f"maze-{maze}-{start[0]},{start[1]}-{goal[0]},{goal[1]}"


def scene(source: Source, task: str) -> tuple[frozenset[Cell], Cell, Cell]:
    """Free cells, start and goal of a task, from its name."""
    _, maze, *cells = task.split("-")
    start, goal = ((int(row), int(column)) for row, column in (cell.split(",") for cell in cells))
    return grid(source, None if maze == "original" else int(maze)), start, goal


def grid(source: Source, number: int | None) -> frozenset[Cell]:
    """The free cells of a maze; None: of the original."""
    if number is None:
        return frozenset((i, j) for i, row in enumerate(ORIGINAL) for j, mark in enumerate(row) if mark == ".")
    return _carved(source.seed, number, source.rows, source.columns, source.loops)


@cache
def _carved(seed: int, number: int, rows: int, columns: int, loops: float) -> frozenset[Cell]:
    """The free cells of a maze: a random spanning tree over the odd cells, then some inner walls opened."""
    draw = Random(f"maze {seed} {number} {rows} {columns}")
    rooms = {(i, j) for i in range(1, rows, 2) for j in range(1, columns, 2)}
    free, trail = {(1, 1)}, [(1, 1)]
    while trail:
        i, j = trail[-1]
        new = [(i + 2 * di, j + 2 * dj) for di, dj in MOVES.values() if (i + 2 * di, j + 2 * dj) in rooms - free]
        if not new:
            trail.pop()
            continue
        room = draw.choice(new)
        free |= {room, ((i + room[0]) // 2, (j + room[1]) // 2)}
        trail.append(room)
    inner = [(i, j) for i in range(1, rows - 1) for j in range(1, columns - 1) if (i + j) % 2 and (i, j) not in free]
    return frozenset(free | {wall for wall in inner if draw.random() < loops})


def _distances(goal: Cell, free: Callable[[Cell], bool], until: Cell | None = None) -> dict[Cell, int]:
    """Moves to the goal from each cell, nearest first (breadth-first search); with `until`, not from farther than that."""
    far, edge = {goal: 0}, deque([goal])
    while edge and until not in far:
        cell = edge.popleft()
        for way in MOVES.values():
            if (other := _beside(cell, way)) not in far and free(other):
                far[other] = far[cell] + 1
                edge.append(other)
    return far


def _apart(one: Cell, other: Cell) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _beside(cell: Cell, way: Cell) -> Cell:
    return cell[0] + way[0], cell[1] + way[1]

"""The mazes, and the tasks of each split."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from random import Random
from typing import NamedTuple

from pilotrl.envs.maze.expert import MazeExpert
from pilotrl.envs.maze.walk import MOVES, Cell, Walk, distances

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
        for start, far in distances(goal, maze.__contains__).items()
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

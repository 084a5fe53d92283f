"""The tasks of a split: which there are, how they are drawn, and how many turns the expert takes for each."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from random import Random
from typing import NamedTuple

from pilotrl.envs.office.expert import ToolsExpert
from pilotrl.envs.office.scene import (
    DAYS,
    Entry,
    Event,
    Expr,
    Goal,
    Op,
    Read,
    Scene,
    constants,
    leaves,
    ops,
    reads_of,
    sentence,
    value_of,
)
from pilotrl.envs.office.toolset import CALCULATOR, SINKS, SOURCES, TOOLS, calls
from pilotrl.envs.office.world import World

SPLITS = {"train": 1000, "dev": 160, "test": 200, "unseen": 200}
"""Number of tasks of each split."""
SHARES = {"train": range(0, 10), "dev": range(10, 13), "test": range(13, 16)}
"""Sixteenths of the sentences in each split."""
UNSEEN = range(0, 3)
"""Sixteenths of the sets of tools that only tasks of unseen take."""
TABLES = ("stock", "weights", "ages", "salaries", "distances", "heights")
NAMES = (
    *("apple", "pear", "plum", "lemon", "cherry", "grape", "peach", "mango", "olive", "onion", "carrot", "pepper"),
    *(
        "lamp",
        "chair",
        "desk",
        "mirror",
        "carpet",
        "bottle",
        "basket",
        "ladder",
        "hammer",
        "candle",
        "blanket",
        "pillow",
    ),
    *("rent", "budget", "voyage", "lunch", "dinner", "concert", "dentist", "festival", "lecture", "seminar", "picnic"),
    *("anna", "boris", "clara", "david", "emma", "felix", "greta", "henry", "irene", "jonas", "karla", "linus"),
    *("river", "forest", "harbor", "castle", "garden", "bridge", "museum", "market", "station", "tower", "island"),
)


class Level(NamedTuple):
    """How long tasks are."""

    reads: tuple[int, ...]
    """Places that a task names, one of which is drawn."""
    par: range
    """Turns of the expert."""


LEVELS = {
    "easy": Level((1, 1, 2), range(2, 4)),
    "medium": Level((2, 2, 3), range(4, 7)),
    "hard": Level((3, 3, 4), range(7, 11)),
}


class Source(NamedTuple):
    """The arguments that decide the tasks of a split."""

    split: str
    seed: int
    level: str
    failures: float
    distractors: int


@lru_cache(maxsize=64)
def solvable(source: Source, max_turns: int) -> dict[str, int]:
    """Task -> turns of the expert, for tasks that it solves within the turn limit. Cached: do not change it."""
    found, sentences, number = dict[str, int](), set[str](), 0
    while len(found) < SPLITS[source.split] and number < 40 * SPLITS["train"]:
        drawn = _draw(source, number)
        if drawn is not None and _split(source, drawn[0], drawn[1]) == source.split:
            said = sentence(drawn[0].goal)
            if said not in sentences and drawn[2] <= max_turns:
                sentences.add(said)
                found[f"{drawn[0].goal.tool.partition('_')[0]}-{number}"] = drawn[2]
        number += 1
    return found


@lru_cache(maxsize=16384)
def scene(source: Source, task: str) -> Scene:
    """A task, from its name. Cached: do not change it."""
    drawn = _draw(source, int(task.rpartition("-")[2]))
    assert drawn is not None
    return drawn[0]


def _split(source: Source, drawn: Scene, used: frozenset[str]) -> str:
    """The split of a task: by the tools that it takes, else by its sentence. Empty for none: its sentence does not name all
    these tools, and says another split."""
    goal = drawn.goal
    named = {goal.tool, *(read.tool for read in reads_of(drawn)), *(op.tool for op in ops(goal.value))}
    unseen = [_sixteenth(source.seed, " ".join(sorted(tools))) in UNSEEN for tools in (used, named)]
    if any(unseen):
        return "unseen" if all(unseen) else ""
    place = _sixteenth(source.seed, sentence(drawn.goal))
    return next(split for split, share in SHARES.items() if place in share)


def _sixteenth(seed: int, text: str) -> int:
    return sha256(f"tools {seed} {text}".encode()).digest()[0] % 16


def _draw(source: Source, number: int) -> tuple[Scene, frozenset[str], int] | None:
    """A candidate task, the tools that the expert calls in it, and its turns; None for one that does not fit the level."""
    draw = Random(f"tools {source.seed} {source.level} {source.failures} {source.distractors} {number}")
    made = _Maker(draw, source).made()
    goal, result = made.goal, value_of(made, made.goal.value)
    fits = 8 <= result <= 18 if goal.tool == "book_event" else result < 10_000
    if not fits or (isinstance(goal.value, Op) and result in constants(goal.value)):
        return None
    used, turns = _played(replace(made, tools=tuple(TOOLS)))
    if turns not in LEVELS[source.level].par:
        return None
    others = sorted(TOOLS.keys() - used)
    offered = [*sorted(used), *draw.sample(others, min(len(others), source.distractors))]
    draw.shuffle(offered)
    return replace(made, tools=tuple(offered)), used, turns


def _played(made: Scene) -> tuple[frozenset[str], int]:
    """The tools that the expert calls, and how often it calls one."""
    world, used, turns = World(made), set[str](), 0
    while not world.over:
        (call,) = calls(ToolsExpert(world, "line").action(), made.tools, "line")
        world.do(call)
        used.add(call.tool)
        turns += 1
    return frozenset(used), turns


class _Maker:
    """Draws one task."""

    def __init__(self, draw: Random, source: Source) -> None:
        self.draw, self.source = draw, source
        self.names = iter(draw.sample(NAMES, len(NAMES)))
        self.tables = draw.sample(TABLES, 2)
        self.entries, self.moved = dict[Read, Entry](), dict[Read, Read]()

    def made(self) -> Scene:
        tool = self.draw.choice(SINKS)
        day = self._placed("find_event", self._event(), False) if tool == "book_event" else None
        count = self.draw.choice(LEVELS[self.source.level].reads)
        count = max(count - 1, self.draw.randrange(2)) if day else count
        value = self._expr([self._leaf(tool) for _ in range(count)], tool)
        name = next(self.names) + (".txt" if tool == "write_file" else "")
        goal = Goal(tool, () if tool == "answer" else (name,), day, value)
        for kind in SOURCES:  # more of each, which nobody needs
            for _ in range(2):
                self._placed(kind, self._event() if kind == "find_event" else self.draw.randrange(2, 61), False)
        return Scene(goal, self.entries, self.moved, self._busy(goal))

    def _busy(self, goal: Goal) -> dict[str, int]:
        """Tools that refuse a call or two; `answer` never does."""
        likely = {read.tool for read in leaves(goal.value)} | {goal.tool} - {"answer"} | {*CALCULATOR}
        fails = [tool for tool in sorted(likely) if self.draw.random() < self.source.failures / 2]
        return {tool: self.draw.choice((1, 1, 2)) for tool in fails}

    def _expr(self, parts: list[Expr], tool: str) -> Expr:
        """All parts in one number, and perhaps a constant."""
        if not parts or self.draw.random() < (0.6 if len(parts) == 1 else 0.3):
            parts.append(self.draw.randrange(2, 13) if parts else self.draw.randrange(8, 19))
        while len(parts) > 1:
            at = self.draw.randrange(len(parts) - 1)
            ways = [name for name in CALCULATOR if name != "multiply" or tool != "book_event"]
            parts[at : at + 2] = [Op(self.draw.choice(ways), parts[at], parts[at + 1])]
        return parts[0]

    def _leaf(self, tool: str) -> Read:
        """A place that says a number, perhaps by way of another place."""
        kind = self.draw.choice(SOURCES)
        number = self.draw.randrange(2, 13 if tool == "book_event" else 61)
        read = self._placed(kind, self._event() if kind == "find_event" else number, True)
        if self.draw.random() < 0.25:
            first = self.draw.choice(("read_note", "read_file", "look_up"))
            read = self._placed(first, read, True)
        return read

    def _placed(self, tool: str, entry: Entry, moves: bool) -> Read:
        """A place that says this; one that `moves` may turn out to be elsewhere."""
        read = self._read(tool)
        self.entries[read] = entry
        if moves and self.draw.random() < self.source.failures / 2:
            old = Read(tool, (*read.names[:-1], self._read(tool).names[-1]))
            self.moved[old] = read
            return old
        return read

    def _read(self, tool: str) -> Read:
        name = next(self.names)
        if tool == "look_up":
            return Read(tool, (self.draw.choice(self.tables), name))
        return Read(tool, (f"{name}.txt" if tool == "read_file" else name,))

    def _event(self) -> Event:
        return Event(self.draw.choice(DAYS), self.draw.randrange(8, 19))

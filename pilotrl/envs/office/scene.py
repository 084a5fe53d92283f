"""What a task is made of: values to be looked up, what is to be computed from them, and where the result belongs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pilotrl.envs.office.toolset import CALCULATOR, Call

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")


class Read(NamedTuple):
    """A place where something is written: the tool that reads it, and the tool's arguments."""

    tool: str
    names: tuple[str, ...]

    @property
    def call(self) -> Call:
        return Call(self.tool, self.names)


class Event(NamedTuple):
    """When an event is."""

    day: str
    hour: int


class Op(NamedTuple):
    """A number that a calculator gives."""

    tool: str
    left: Expr
    right: Expr


Expr = int | Read | Op
Entry = int | Event | Read
"""What is written in a place: a number, a day and an hour, or another place."""


class Goal(NamedTuple):
    """What is to be done: `tool` is called with the names, of an event the day of another one, and the value."""

    tool: str
    names: tuple[str, ...]
    day: Read | None
    value: Expr


@dataclass(frozen=True)
class Scene:
    """A task, and all that the player does not know of it."""

    goal: Goal
    entries: dict[Read, Entry]
    moved: dict[Read, Read]
    """Places that are gone -> where what they said is now."""
    busy: dict[str, int]
    """Tool -> how many calls it refuses at first."""
    tools: tuple[str, ...] = field(default=())
    """Those that are offered, in order."""


def number_of(entry: int | Event) -> int:
    """A number as written; of an event the hour."""
    return entry.hour if isinstance(entry, Event) else entry


def leaves(expr: Expr) -> Iterator[Read]:
    """The places that an expression reads, from left to right."""
    if isinstance(expr, Op):
        yield from leaves(expr.left)
        yield from leaves(expr.right)
    elif isinstance(expr, Read):
        yield expr


def ops(expr: Expr) -> Iterator[Op]:
    """The calculations of an expression, in an order in which they can be done."""
    if isinstance(expr, Op):
        yield from ops(expr.left)
        yield from ops(expr.right)
        yield expr


def computed(tool: str, a: int, b: int) -> int:
    """What a calculator gives."""
    return {"add": a + b, "multiply": a * b, "difference": abs(a - b), "larger": max(a, b), "smaller": min(a, b)}[tool]


def place(read: Read) -> str:
    """A place in words."""
    *_, last = read.names
    return {
        "look_up": f"{last} in table {read.names[0]}",
        "read_file": f"file {last}",
        "read_note": f"note {last}",
        "find_event": f"event {last}",
    }[read.tool]


def spoken(expr: Expr) -> str:
    """A number that is wanted, in words."""
    if isinstance(expr, Op):
        sides = [f"({spoken(side)})" if isinstance(side, Op) else spoken(side) for side in (expr.left, expr.right)]
        return f"the {CALCULATOR[expr.tool]} of {sides[0]} and {sides[1]}"
    if isinstance(expr, Read):
        return f"the hour of {place(expr)}" if expr.tool == "find_event" else place(expr)
    return str(expr)


def sentence(goal: Goal) -> str:
    """The task in a sentence."""
    value, name = spoken(goal.value), goal.names[0] if goal.names else ""
    day = f"the day of {place(goal.day)}" if goal.day else ""
    return {
        "answer": f"answer with {value}",
        "write_file": f"write {value} into file {name}",
        "save_note": f"save {value} as note {name}",
        "book_event": f"book event {name} on {day} at {value}",
    }[goal.tool]


def reads_of(scene: Scene) -> list[Read]:
    """The places that the task names."""
    goal = scene.goal
    return [*([goal.day] if goal.day else []), *leaves(goal.value)]


def constants(expr: Expr) -> list[int]:
    """The numbers that the task names."""
    if isinstance(expr, Op):
        return [*constants(expr.left), *constants(expr.right)]
    return [expr] if isinstance(expr, int) else []


def found(scene: Scene, read: Read) -> int | Event:
    """What a place says in the end, wherever that is."""
    entry: int | Event | Read = read
    while isinstance(entry, Read):
        entry = scene.moved[entry] if entry in scene.moved else scene.entries[entry]
    return entry


def value_of(scene: Scene, expr: Expr) -> int:
    """The truth."""
    if isinstance(expr, Op):
        return computed(expr.tool, value_of(scene, expr.left), value_of(scene, expr.right))
    return number_of(found(scene, expr)) if isinstance(expr, Read) else expr


def call_wanted(scene: Scene) -> Call:
    """The call that solves the task."""
    goal = scene.goal
    day = found(scene, goal.day) if goal.day else None
    days = (day.day,) if isinstance(day, Event) else ()
    return Call(goal.tool, (*goal.names, *days, value_of(scene, goal.value)))

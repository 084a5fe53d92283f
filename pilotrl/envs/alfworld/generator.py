"""The generator of ALFWorld's rooms and tasks, from a seed.

There are thirty rooms of each of the four kinds, as in the original: twenty-four are seen in training, six are not. A task
is a type, a kind of thing, a kind of place and a room, which make its name: `heat-apple-fridge-kitchen07`. A hash of that
name assigns the tasks of the seen rooms to train, dev and test, so that none is in two of them on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from itertools import accumulate, pairwise
from random import Random
from typing import NamedTuple

from pilotrl.envs.alfworld.facts import (
    ESSENTIAL,
    LAMPS,
    OPENABLE,
    ROOMS,
    SINGLE,
    TOOLS,
    TREATABLE,
    can_hold,
    found_in,
    kind,
    usual,
)
from pilotrl.envs.alfworld.text import Goal
from pilotrl.envs.alfworld.world import Scene

SPLITS = {"train": (0.0, 0.8), "dev": (0.8, 0.9), "test": (0.9, 1.0), "unseen": (0.0, 1.0)}
"""Range of the hash, in [0, 1), of the tasks of a split."""
SEEN, UNSEEN = range(1, 25), range(25, 31)
"""Numbers of the rooms of each kind."""
SIZES = {"train": 2420, "dev": 200, "test": 200, "unseen": 200}
TYPES = {"place": 672, "clean": 448, "cool": 394, "two": 389, "heat": 321, "light": 196}
"""Number of tasks of each type among the 2,420 training tasks of AgentGym."""
MORE = 0.3
"""Probability of one more thing of the wanted kind than needed."""
REPEATS = 3
"""Maximum number of things of one kind in a room, and of places of one kind in a small room."""
TRIES = 200
"""Maximum number of draws for a room that equals no other of its kind."""


class Source(NamedTuple):
    """The arguments that decide the tasks of a split."""

    split: str
    seed: int
    places: int
    clutter: float
    surprises: float


class Room(NamedTuple):
    """A room without its things."""

    name: str
    kind: str
    counts: dict[str, int]
    """Kind of place -> how many."""


def rooms(source: Source) -> list[Room]:
    """The rooms of a split."""
    numbers = UNSEEN if source.split == "unseen" else SEEN
    every = _rooms(source.seed, source.places)
    return [every[f"{room}{number:02}"] for room in ROOMS for number in numbers]


@cache
def _rooms(seed: int, places: int) -> dict[str, Room]:
    """All rooms by name, each different from the others of its kind if that many exist."""
    found: dict[str, Room] = {}
    for room in ROOMS:
        known: list[dict[str, int]] = []
        for number in (*SEEN, *UNSEEN):
            draw = Random(f"{seed} {places} {room} {number}")
            tries = (_furnished(draw, room, places) for _ in range(TRIES))
            known.append(next((counts for counts in tries if counts not in known), _furnished(draw, room, places)))
            found[f"{room}{number:02}"] = Room(f"{room}{number:02}", room, known[-1])
    return found


def _furnished(draw: Random, room: str, places: int) -> dict[str, int]:
    """Number of places of each kind: a full room, cut down to `places` places, or one or two fewer."""
    drawn = ((item.split()[0], int(draw.choice(item.split()[1:]))) for item in ROOMS[room].split(";"))
    whole = {name: count for name, count in drawn if count}
    size = places - draw.randrange(3)
    if sum(whole.values()) <= size:
        return whole
    kept = Counter(name for name in whole if name in ESSENTIAL)
    while kept.total() < size:
        left = [name for name, count in whole.items() if kept[name] < min(count, max(REPEATS, places // 4))]
        if not left:
            break
        kept[draw.choice([name for name in left if _of_use(room, name)] or left)] += 1
    return {name: kept[name] for name in whole if kept[name]}


@cache
def _of_use(room: str, place: str) -> bool:
    return any(can_hold(place, thing) for thing in found_in(room))


def candidates(source: Source) -> dict[str, list[str]]:
    """Type of task -> names of the tasks of a split, in an order that follows from the names."""
    low, high = SPLITS[source.split]
    listed: dict[str, list[tuple[float, str]]] = {name: [] for name in TYPES}
    for room in rooms(source):
        for goal in _goals(room):
            name = f"{goal.type}-{goal.thing}-{goal.place}-{room.name}"
            hashed = share(f"{source.seed} {name}")
            if low <= hashed < high:
                listed[goal.type].append((hashed, name))
    return {name: [task for _, task in sorted(pairs)] for name, pairs in listed.items()}


def quota(split: str) -> dict[str, int]:
    """Type of task -> its number in a split, in the original's proportions."""
    ends = [round(SIZES[split] * end / sum(TYPES.values())) for end in accumulate(TYPES.values(), initial=0)]
    return {name: end - begin for name, (begin, end) in zip(TYPES, pairwise(ends), strict=True)}


def shuffled(seed: int, tasks: list[str]) -> list[str]:
    """The tasks in an order that mixes types and rooms."""
    return sorted(tasks, key=lambda task: share(f"{seed} order {task}"))


def share(text: str) -> float:
    """A number in [0, 1), hashed from the text; the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def _goals(room: Room) -> Iterator[Goal]:
    """Goals that are possible in a room: the thing can also be somewhere else than at the target."""
    lamp = next(iter(LAMPS))
    for thing in found_in(room.kind):
        holders = [place for place in room.counts if can_hold(place, thing)]
        if holders and any(can_hold(place, lamp) for place in room.counts) and room.kind in ("bedroom", "living"):
            yield Goal("light", thing, lamp, 0)
        for place in holders if len(holders) > 1 else ():
            yield Goal("place", thing, place, 0)
            if place not in SINGLE:
                yield Goal("two", thing, place, 0)
            for treatment, tool in TOOLS.items():
                if tool in room.counts and thing in TREATABLE[treatment] and place != tool:
                    yield Goal(treatment, thing, place, 0)


def scene(source: Source, task: str) -> Scene:
    """The room of a task with its things. Raises KeyError for an unknown name."""
    kind_of_task, thing, place, name = task.split("-")
    room = _rooms(source.seed, source.places)[name]
    draw = Random(f"{source.seed} {source.places} {source.clutter} {source.surprises} {task}")
    goal = Goal(kind_of_task, thing, place, draw.randrange(2))
    inside = _filled(draw, room, goal, source)
    return Scene(inside, frozenset(name for name in inside if kind(name) in OPENABLE), goal)


def _filled(draw: Random, room: Room, goal: Goal, source: Source) -> dict[str, tuple[str, ...]]:
    """Every place of the room with its things."""
    wanted = (2 if goal.type == "two" else 1) + (draw.random() < MORE)
    inside = {f"{place} {i}": list[str]() for place, count in room.counts.items() for i in range(1, count + 1)}
    kinds = [goal.thing] * wanted + ([goal.place] if goal.type == "light" else [])
    others = [thing for thing in found_in(room.kind) if thing != goal.thing]
    kinds += draw.choices(others, k=round(source.clutter * len(inside)))
    count: Counter[str] = Counter()
    for thing in kinds:
        place = _place(draw, room, thing, goal.place if thing == goal.thing else "", source.surprises)
        if place and count[thing] < max(REPEATS, wanted):
            count[thing] += 1
            inside[place].append(f"{thing} {count[thing]}")
    return {place: tuple(things) for place, things in inside.items()}


def _place(draw: Random, room: Room, thing: str, without: str, surprises: float) -> str | None:
    """A place for a thing: one where it usually is or, with probability `surprises`, any that can hold it; None if none."""
    able = [place for place in room.counts if place != without and can_hold(place, thing)]
    likely = [place for place in able if place in usual(thing)]
    surprising = draw.random() < surprises
    choice = (able if surprising else likely) or able
    place = draw.choice(choice) if choice else None
    return f"{place} {draw.randint(1, room.counts[place])}" if place else None

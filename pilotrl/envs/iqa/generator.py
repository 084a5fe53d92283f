"""The generator of IQA's kitchens and questions, from a seed.

There are thirty kitchens, as in the original: twenty-five are seen in training, five are not. A task's name is question,
kitchen and answer, `contains-mug-fridge-kitchen07-True`. A hash of the name without its answer assigns those of the seen
kitchens to train, dev and test: the same question in the same kitchen is in one split only.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from random import Random
from typing import NamedTuple

from pilotrl.envs.iqa.questions import THINGS, Question
from pilotrl.envs.iqa.room import CONTAINERS, FURNITURE, OPENABLE, Cell, Pose, Scene, Size, border, kind, truth

SPLITS = {"train": (0.0, 0.7), "dev": (0.7, 0.82), "test": (0.82, 1.0), "unseen": (0.0, 1.0)}
SEEN, UNSEEN = range(1, 26), range(26, 31)
SIZES = {"train": 1200, "dev": 180, "test": 204, "unseen": 204}
SHARES = {("exists", a): 1 / 6 for a in ("True", "False")} | {("contains", a): 1 / 6 for a in ("True", "False")}
SHARES |= {("count", str(n)): 1 / 12 for n in range(4)}
"""Share of each type and answer in a split, as in IQUAD V1."""


class Source(NamedTuple):
    """The arguments that decide the tasks of a split."""

    split: str
    seed: int
    floor: int
    """Squares along a side of the floor, at most."""
    view: int
    furniture: int
    """Pieces, at most."""
    clutter: float
    """Things a piece besides those asked for."""


def candidates(source: Source) -> dict[tuple[str, str], list[str]]:
    """(type, answer) -> names of a split's tasks, in an order that follows from the names."""
    low, high = SPLITS[source.split]
    found: dict[tuple[str, str], list[str]] = {key: [] for key in SHARES}
    for number in UNSEEN if source.split == "unseen" else SEEN:
        kitchen = f"kitchen{number:02}"
        there = {kind(piece) for piece in room(source, kitchen)[1].values()}
        for question in _questions(there):
            name = "-".join([*filter(None, question), kitchen])
            if low <= share(f"{source.seed} {name}") < high:
                for type_, answer in SHARES:
                    if type_ == question.type:
                        found[type_, answer].append(f"{name}-{answer}")
    return {key: sorted(names, key=lambda name: share(f"{source.seed} order {name}")) for key, names in found.items()}


def _questions(furniture: set[str]) -> list[Question]:
    where = [container for container in CONTAINERS if container in furniture]
    plain = [Question(type_, thing) for type_ in ("exists", "count") for thing in THINGS]
    return plain + [Question("contains", thing, container) for thing in THINGS for container in where]


@lru_cache(maxsize=1024)
def room(source: Source, kitchen: str) -> tuple[Size, dict[Cell, str]]:
    """Floor and furniture of a kitchen; each has at least one piece that can be opened, and one that cannot."""
    draw = Random(f"{source.seed} {source.floor} {source.furniture} {kitchen}")
    size = Size(draw.randint(source.floor - 1, source.floor), draw.randint(source.floor - 1, source.floor), source.view)
    kinds = [draw.choice(OPENABLE), draw.choice(CONTAINERS), "countertop"]
    while len(kinds) < draw.randint(source.furniture - 1, source.furniture):
        other = draw.choice(FURNITURE)
        kinds += [other] if other in ("cabinet", "countertop") or other not in kinds else []
    kinds = [name for i, name in enumerate(kinds) if name in ("cabinet", "countertop") or name not in kinds[:i]]
    cells = draw.sample(border(size), len(kinds))
    return size, {
        cell: f"{name}_{kinds[: i + 1].count(name)}" for i, (cell, name) in enumerate(zip(cells, kinds, strict=True))
    }


@lru_cache(maxsize=8192)
def scene(source: Source, task: str) -> Scene:
    """A kitchen with its things, and the question."""
    type_, thing, *container, kitchen, answer = task.split("-")
    question = Question(type_, thing, *container)
    size, furniture = room(source, kitchen)
    draw = Random(f"{source} {task}")
    pieces = list(furniture.values())
    placed = _asked(draw, question, answer, pieces)
    others = [name for name in THINGS if name != thing]
    placed += [(name, draw.choice(pieces)) for name in draw.choices(others, k=round(source.clutter * len(pieces)))]
    draw.shuffle(placed)
    things: dict[str, tuple[str, ...]] = {}
    count: dict[str, int] = {}
    for name, piece in placed:
        count[name] = count.get(name, 0) + 1
        things[piece] = (*things.get(piece, ()), f"{name}_{count[name]}")
    assert truth(question._asdict(), things) == answer
    start = Pose(draw.randrange(size.wide), draw.randrange(size.long), draw.randrange(4))
    return Scene(size, start, furniture, things, question.text(draw.randrange(20)), answer)


def _asked(draw: Random, question: Question, answer: str, pieces: list[str]) -> list[tuple[str, str]]:
    """Places for the things that the question is about: with probability one half a closed one."""
    thing = question.thing
    if question.type == "contains":
        inside = [piece for piece in pieces if kind(piece) == question.container]
        outside = [piece for piece in pieces if kind(piece) != question.container]
        elsewhere = [(thing, draw.choice(outside))] if draw.random() < 0.5 else []
        return elsewhere + ([(thing, draw.choice(inside))] if answer == "True" else [])
    number = int(answer) if question.type == "count" else draw.randint(1, 2) if answer == "True" else 0
    closed = [piece for piece in pieces if kind(piece) in OPENABLE]
    return [(thing, draw.choice(closed if draw.random() < 0.5 else pieces)) for _ in range(number)]


def share(text: str) -> float:
    """A number in [0, 1), hashed from the text; the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48

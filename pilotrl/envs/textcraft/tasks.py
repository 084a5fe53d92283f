"""The tasks of a TextCraft split: for each goal several sets of commands, generated from the seed, once a process."""

from __future__ import annotations

from collections import Counter
from functools import cache, lru_cache
from hashlib import sha256
from random import Random
from typing import NamedTuple

from pilotrl.envs.textcraft.expert import TextCraftExpert
from pilotrl.envs.textcraft.recipes import Recipe, book
from pilotrl.envs.textcraft.world import World

VARIANTS = {"train": 6, "dev": 6, "test": 4, "unseen": 6}
"""Number of sets of commands for each goal of a split."""


class Source(NamedTuple):
    """The arguments that decide the tasks of a split."""

    split: str
    seed: int
    depth: int
    ways: int
    distractors: int


class Tasks(NamedTuple):
    """The tasks of a split."""

    turns: dict[str, int]
    """Task -> actions of the expert, in the order of the split."""
    rejected: int
    """Number of candidate tasks that the expert did not solve within the turn limit."""


@cache
def solvable(source: Source, max_turns: int) -> Tasks:
    """The candidate tasks that the expert solves within the turn limit, in random order."""
    turns: dict[str, int] = {}
    rejected = 0
    for goal in goals(source):
        for task in _candidates(source, goal):
            needed = efficient(scene(source, task), max_turns)
            rejected += needed is None
            if needed is not None:
                turns[task] = needed
    items = list(turns.items())
    Random(f"order {source.seed} {source.split}").shuffle(items)
    return Tasks(dict(items), rejected)


def goals(source: Source) -> list[str]:
    """The goals of a split. No two splits share one, and unseen shares no kind with the others."""
    items = sorted(item for item in book().recipes if book().depth(item) <= source.depth)
    return [item for item in items if split_of(source.seed, item) == source.split]


def split_of(seed: int, item: str) -> str:
    """The split in which an item is a goal: unseen if its kind is, else in one case of eight dev, in one of five test."""
    if _kind(item) in unseen_kinds(seed):
        return "unseen"
    drawn = _drawn(seed, item)
    return "dev" if drawn < 32 else "test" if drawn < 84 else "train"


@cache
def unseen_kinds(seed: int) -> frozenset[str]:
    """Kinds of goals that only unseen has, drawn until they hold one goal in seven."""
    items = Counter(_kind(item) for item in book().recipes)
    chosen, held = set[str](), 0
    for kind in sorted(items, key=lambda kind: _drawn(seed, kind)):
        if 7 * (held + items[kind]) <= items.total():
            chosen.add(kind)
            held += items[kind]
    return frozenset(chosen)


def _kind(item: str) -> str:
    """The last word of an item's name: `sign`, of oak or of birch."""
    return item.rpartition("_")[2]


def _drawn(seed: int, name: str) -> int:
    """A number from 0 to 255."""
    return sha256(f"{seed} {name}".encode()).digest()[0]


def _candidates(source: Source, goal: str) -> list[str]:
    """A goal's tasks in this split, without those that show the same commands as one with a lower number."""
    shown: set[frozenset[str]] = set()
    names = []
    for number in range(VARIANTS[source.split]):
        task = f"{goal}-{number}"
        commands = frozenset(scene(source, task).commands)
        if commands not in shown:
            names.append(task)
        shown.add(commands)
    return names


@lru_cache(maxsize=16384)
def scene(source: Source, task: str) -> World:
    """The commands and the goal of a task, from its name. Cached: do not change it."""
    goal, _, number = task.rpartition("-")
    draw = Random(f"textcraft {source.seed} {goal} {number}")
    shown = _needed(goal, source.ways, draw)
    commands = [way.command for way in shown]
    uses = {way.command for recipe in shown for need in recipe.needs for way in _uses()[need.name]} - set(commands)
    commands += draw.sample(sorted(uses), min(len(uses), source.distractors))
    draw.shuffle(commands)
    return World(commands, goal)


def _needed(goal: str, ways: int, draw: Random) -> list[Recipe]:
    """Recipes from the goal down to raw ingredients, at most `ways` for each item."""
    found, pending = list[Recipe](), [goal]
    seen = {goal}
    while pending:
        known = book().ways(pending.pop(0))
        chosen = draw.sample(known, min(ways, len(known)))
        found += [way for way in chosen if way not in found]
        new = [need.name for way in chosen for need in way.needs if need.name not in seen]
        seen.update(new)
        pending += dict.fromkeys(new)
    return found


@cache
def _uses() -> dict[str, list[Recipe]]:
    """Item or tag -> the recipes that need it."""
    uses: dict[str, list[Recipe]] = {}
    for ways in book().recipes.values():
        for way in ways:
            for need in way.needs:
                uses.setdefault(need.name, []).append(way)
    return uses


def efficient(scene: World, max_turns: int) -> int | None:
    """Actions that the expert needs; None if it does not reach the goal within the limit."""
    world = World(scene.commands, scene.goal)
    for turn in range(1, max_turns + 1):
        if not world.do(TextCraftExpert(world).action())[1]:
            return None
        if world.solved:
            return turn
    return None

"""The tasks of an ALFWorld split: generated ones that the expert solves within the turn limit. Computed once a process."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

from pilotrl.envs.alfworld import generator
from pilotrl.envs.alfworld.belief import Notes
from pilotrl.envs.alfworld.expert import AlfWorldExpert
from pilotrl.envs.alfworld.generator import Source
from pilotrl.envs.alfworld.text import WORDINGS
from pilotrl.envs.alfworld.world import Scene, World

MOST = 3
"""Candidates tried for each task that a split should have; with a low turn limit there are fewer tasks."""


class Tasks(NamedTuple):
    """The tasks of a split."""

    turns: dict[str, int]
    """Task -> turns of the expert, in the order of the split."""
    rejected: int
    """Number of candidate tasks that the expert did not solve within the turn limit."""


@cache
def solvable(source: Source, max_turns: int) -> Tasks:
    """The solvable tasks of a split, with the original's proportions of types if there are enough."""
    found: dict[str, int] = {}
    rejected = 0
    quota = generator.quota(source.split)
    for kind, names in generator.candidates(source).items():
        taken = 0
        for name in names[: MOST * quota[kind]]:
            if taken == quota[kind]:
                break
            turns = efficient(scene(source, name), max_turns)
            if turns is None:
                rejected += 1
            else:
                found[name] = turns
                taken += 1
    return Tasks({name: found[name] for name in generator.shuffled(source.seed, list(found))}, rejected)


@lru_cache(maxsize=4096)
def scene(source: Source, name: str) -> Scene:
    """The initial room of a task with its things."""
    return generator.scene(source, name)


def efficient(scene: Scene, max_turns: int) -> int | None:
    """Turns that the expert needs; None if it does not solve the task within the limit."""
    world = World(scene, WORDINGS["put"])
    notes = Notes.of(world.opening())
    expert = AlfWorldExpert(notes, world.wording)
    for turn in range(1, max_turns + 1):
        action = expert.action()
        notes.read(action, world.do(world.possible()[action]))
        if world.solved():
            return turn
    return None

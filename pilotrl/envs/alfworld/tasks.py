"""The tasks of a split: those of the generator's that an efficient player finishes in time. Made once a process."""

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
"""Candidates looked at for each task that a split asks for; where the turn limit is too low, there are fewer tasks."""


class Tasks(NamedTuple):
    """What a split offers."""

    turns: dict[str, int]
    """Task -> turns of the expert, in the order of the split."""
    rejected: int
    """Candidates that the expert did not finish in time."""


@cache
def solvable(source: Source, max_turns: int) -> Tasks:
    """Of each type as many as the original's proportions ask for, as far as there are."""
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
    """The room of a task with its things, as it is at the start."""
    return generator.scene(source, name)


def efficient(scene: Scene, max_turns: int) -> int | None:
    """Turns that the expert needs; None where it does not solve the task within the limit."""
    world = World(scene, WORDINGS["put"])
    notes = Notes.of(world.opening())
    expert = AlfWorldExpert(notes, world.wording)
    for turn in range(1, max_turns + 1):
        action = expert.action()
        notes.read(action, world.do(world.possible()[action]))
        if world.solved():
            return turn
    return None

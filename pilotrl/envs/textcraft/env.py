"""The TextCraft environment: `reset`, `step` and the arguments."""

from __future__ import annotations

import re
from typing import Any

from pilotrl.envs import Info
from pilotrl.envs.textcraft import tasks
from pilotrl.envs.textcraft.expert import TextCraftExpert, ways_of
from pilotrl.envs.textcraft.recipes import book, spoken
from pilotrl.envs.textcraft.world import World
from pilotrl.types import UserError

FIDELITY: dict[str, dict[str, int]] = {
    "small": {"depth": 2, "ways": 1, "distractors": 3, "max_turns": 10},
    "medium": {"depth": 4, "ways": 1, "distractors": 3, "max_turns": 20},
    "original": {"depth": 4, "ways": 100, "distractors": 10, "max_turns": 20},
}
"""Values that `fidelity` sets for keys left null."""
SAID = re.compile(r"craft .+ using .+|get [0-9]+ .+|inventory")
MADE = re.compile(r"Crafted (\d+) minecraft:(\w+)")


class TextCraft:
    """Craft an item of Minecraft by given commands, some of which are distractors, from raw ingredients.

    Actions: `get N ITEM`; `craft N ITEM using N ITEM, N ITEM`, one craft of a recipe, with exactly what it asks for;
    `inventory`. Where a command asks for a generic thing ("planks"), any one kind of it does ("oak planks").
    Observation: at reset the commands and the goal; then the reply to the action.
    Reward: 1 when the goal is crafted, else 0. Score: the same.
    End: terminated when the goal is crafted; truncated after `max_turns`.
    Arguments: `split` (train, dev, test: other goals; unseen: goals of other kinds); `seed` of tasks; `fidelity` (small,
    medium, original), which decides those left None of `depth` (crafts that build on each other, at most), `ways` to craft a
    thing that are shown, `distractors` (unneeded commands), `max_turns`.
    Raises UserError for values that leave no task.
    References: ADaPT (arXiv 2311.05772), AgentGym (arXiv 2406.04151).
    """

    chance = 0.24

    def __init__(
        self,
        *,
        split: str,
        max_turns: int | None,
        seed: int,
        fidelity: str,
        depth: int | None,
        ways: int | None,
        distractors: int | None,
    ) -> None:
        _one_of("split", split, tuple(tasks.VARIANTS))
        _one_of("fidelity", fidelity, tuple(FIDELITY))
        given = {"depth": depth, "ways": ways, "distractors": distractors, "max_turns": max_turns}
        values = {key: FIDELITY[fidelity][key] if value is None else value for key, value in given.items()}
        for key, value in values.items():
            if value < (least := 0 if key == "distractors" else 1):
                raise UserError(f"env.{key}={value}: must be at least {least}")
        self.max_turns = values.pop("max_turns")
        self._source = tasks.Source(split, seed, **values)
        self._turns = tasks.solvable(self._source, self.max_turns).turns
        self.tasks = list(self._turns)
        if not self.tasks:
            raise UserError(
                f"env.max_turns={self.max_turns}: no goal of split {split} can be crafted in so few; raise it"
            )
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        par, scene = self._turns[task], tasks.scene(self._source, task)
        self._world, self._taken, self._over = World(scene.commands, scene.goal), 0, False
        self._actions = ["inventory", *scene.commands, *_gets(scene.commands)]
        return self._world.opening(), self._info(True) | {"par": par}

    def level(self, task: str) -> str:
        """How many crafts build on each other: `depth 2`."""
        return f"depth {book().depth(task.rpartition('-')[0])}"

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self._over:
            raise RuntimeError("the episode has ended: reset first")
        self._taken += 1
        text, valid = self._world.do(action.strip())
        solved = self._world.solved
        truncated = not solved and self._taken >= self.max_turns
        self._over = solved or truncated
        return text, float(solved), solved, truncated, self._info(valid)

    def _info(self, valid: bool) -> Info:
        solved = self._world.solved
        return {"score": float(solved), "solved": solved, "valid": valid, "actions": self._actions}

    @property
    def expert(self) -> TextCraftExpert | None:
        """The scripted expert for the running episode; None before the first reset."""
        return TextCraftExpert(self._world) if hasattr(self, "_world") else None


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"env.{key}={value}: must be one of {', '.join(allowed)}")


def _gets(commands: list[str]) -> list[str]:
    """`get` actions for the ingredients of the commands that no command crafts, in the numbers they ask for."""
    ways = ways_of(tuple(commands))
    needs = {need for several in ways.values() for way in several for need in way.needs}
    return [f"get {count} {name}" for count, name in sorted(needs) if name not in ways]


def resolve(observation: str, action: str, reply: str = "") -> str:
    """What the action did, in words; "" if it is no command. Of a craft the reply says what was made, and how many."""
    text = action.strip()
    if not SAID.fullmatch(text):
        return ""
    made = MADE.fullmatch(reply)
    return f"craft {made[1]} {spoken(made[2])} using {text.rpartition(' using ')[2]}" if made else text

"""The toy environment: press coloured buttons in a given order. For tests, and for a first look at a run."""

from __future__ import annotations

import re
from itertools import product
from random import Random
from typing import Any

from pilotrl.envs import Info
from pilotrl.types import UserError

COLORS = ("red", "green", "blue", "gold", "gray", "pink", "teal", "plum")
SPLITS = {"train": slice(0, 376), "dev": slice(376, 440), "test": slice(440, 576)}
"""Slices of the shuffled 8 * 8 + 8 * 8 * 8 sequences of two and three colors."""


class ToyEnv:
    """Press coloured buttons in the order that the instruction names. A task's name is its colors: `red-blue`.

    Actions: `press[color]`, one of eight colors.
    Observation: `Press red, then blue.` at reset; then `You pressed red. 1 of 2 done.`, `Nothing happens.` for an action
    that is not understood, and `Wrong button.` for a button out of order.
    Reward: one share of the whole for each button pressed in order.
    End: terminated when all buttons are pressed (solved) or a wrong one is (failed); truncated after `max_turns`.
    Arguments: `split` (train, dev, test: different sequences), `max_turns`, `seed` that assigns the sequences to splits.
    Raises UserError for a split that does not exist.
    """

    chance = 0.06

    def __init__(self, *, split: str, max_turns: int, seed: int) -> None:
        if split not in SPLITS:
            raise UserError(f"env.split={split}: must be one of {', '.join(SPLITS)}")
        every = ["-".join(colors) for length in (2, 3) for colors in product(COLORS, repeat=length)]
        Random(seed).shuffle(every)
        self.tasks, self.max_turns = every[SPLITS[split]], max_turns
        self.over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        if task not in self.tasks:
            raise KeyError(task)
        self.colors = task.split("-")
        self.pressed, self.turn, self.over = 0, 0, False
        return "Press " + ", then ".join(self.colors) + ".", self._info(True) | {"par": len(self.colors)}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self.over:
            raise RuntimeError("the episode has ended: reset first")
        self.turn += 1
        named = re.fullmatch(r"press\[(\w+)\]", action)
        color = named[1] if named and named[1] in COLORS else None
        right = color == self.colors[self.pressed]
        self.pressed += right
        text = "Wrong button." if color else "Nothing happens."
        if right:
            text = f"You pressed {color}. {self.pressed} of {len(self.colors)} done."
        terminated = self.pressed == len(self.colors) or (color is not None and not right)
        truncated = not terminated and self.turn >= self.max_turns
        self.over = terminated or truncated
        return text, right / len(self.colors), terminated, truncated, self._info(color is not None)

    def _info(self, valid: bool) -> Info:
        score = self.pressed / len(self.colors)
        return {"score": score, "solved": score == 1.0, "valid": valid, "actions": [f"press[{c}]" for c in COLORS]}

    @property
    def expert(self) -> ToyExpert | None:
        """The scripted expert for the running episode; None before the first reset."""
        return ToyExpert(self) if hasattr(self, "colors") else None


class ToyExpert:
    """The expert: presses the buttons that the instruction names, in order."""

    def __init__(self, env: ToyEnv) -> None:
        self.env = env

    def plan(self) -> list[str]:
        return [f"push the {color} button" for color in self.env.colors[self.env.pressed :]]

    def loose(self) -> list[str]:
        return ["push the next button in order"] * (len(self.env.colors) - self.env.pressed)

    def subgoals(self) -> list[str]:
        """All buttons but the last, then that one."""
        left = len(self.env.colors) - self.env.pressed
        return ["push all buttons but the last"] * (left - 1) + [f"push the {self.env.colors[-1]} button"] * (left > 0)

    def action(self) -> str:
        return f"press[{self.env.colors[self.env.pressed]}]"

    def thought(self) -> str:
        """How many are pressed, and what is left: `1 of 3 done; blue, gold are left`."""
        colors, pressed = self.env.colors, self.env.pressed
        return f"{pressed} of {len(colors)} done; {', '.join(colors[pressed:]) or 'nothing'} left"

    def detour(self) -> None:
        """None: every action counts here."""

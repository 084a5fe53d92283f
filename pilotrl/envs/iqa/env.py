"""The IQA environment: `reset`, `step` and the arguments."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from pilotrl.envs import Info, replay
from pilotrl.envs.iqa import generator
from pilotrl.envs.iqa.expert import IqaExpert, Notes
from pilotrl.envs.iqa.generator import SHARES, SIZES, SPLITS, Source
from pilotrl.envs.iqa.questions import ANSWERS
from pilotrl.envs.iqa.room import NOTHING_HAPPENS, Kitchen, Scene
from pilotrl.types import UserError

FIDELITY: dict[str, dict[str, Any]] = {
    "small": {"floor": 3, "view": 2, "furniture": 5, "clutter": 0.6, "max_turns": 14},
    "medium": {"floor": 5, "view": 2, "furniture": 6, "clutter": 0.6, "max_turns": 24},
    "original": {"floor": 6, "view": 4, "furniture": 12, "clutter": 1.0, "max_turns": 30},
}
"""Values that `fidelity` sets for keys left null."""


class Iqa:
    """Answer a question about a kitchen by walking through it and opening things (IQUAD V1 in the manner of LangSuitE).

    Actions: `move ahead`, `turn left`, `turn right`, `open F` (a closed piece of furniture in front, such as `fridge_1`),
    `answer [True]`, `answer [False]`, `answer [n]` with n from 0 to 3.
    Observation: at reset the question; always the furniture in sight in front, on the left and on the right, with the things
    on it, or in it once it is open, and the free steps each way; after opening the things inside; `Nothing happens.` if an
    action is not possible.
    Reward: 1 for the right answer, else 0. Score: the same.
    End: terminated by any answer; truncated after `max_turns`.
    Arguments: `split` (train, dev, test: other questions in the same kitchens; unseen: other kitchens); `seed` of kitchens
    and tasks; `fidelity` (small, medium, original), which decides those left None of `floor` (squares along a side, at most),
    `view` (squares that are visible), `furniture` (pieces, at most), `clutter` (things a piece besides those asked for),
    `max_turns`.
    Raises UserError for invalid values.
    References: IQUAD V1 (arXiv 1712.03316), LangSuitE (arXiv 2406.16294).
    """

    chance = 0.42

    def __init__(
        self,
        *,
        split: str,
        seed: int,
        fidelity: str,
        floor: int | None,
        view: int | None,
        furniture: int | None,
        clutter: float | None,
        max_turns: int | None,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        _one_of("split", split, SPLITS)
        _one_of("fidelity", fidelity, FIDELITY)
        usual = FIDELITY[fidelity]
        side = _within("floor", usual["floor"] if floor is None else floor, 2, 8)
        far = _within("view", usual["view"] if view is None else view, 1, 8)
        pieces = _within("furniture", usual["furniture"] if furniture is None else furniture, 4, 4 * (side - 1))
        full = _within("clutter", usual["clutter"] if clutter is None else clutter, 0, 5)
        self.max_turns: int = _within("max_turns", usual["max_turns"] if max_turns is None else max_turns, 1, 1000)
        self._source = Source(split, seed, side, far, pieces, full)
        self._par, _ = solvable(self._source, self.max_turns)
        if not self._par:
            raise UserError(
                f"env.max_turns={self.max_turns}: no task of split {split} can be solved in so few; raise it"
            )
        self.tasks = list(self._par)
        self._task: str | None = None
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        par = self._par[task]
        self._world = Kitchen(generator.scene(self._source, task))
        self._task, self._over = task, False
        self._texts: list[tuple[str, str]] = [("", _opening(self._world))]
        self._notes: tuple[int, Notes] | None = None
        return self._texts[0][1], self._info(True, False) | {"par": par}

    def level(self, task: str) -> str:
        """Type of the question: `contains`, `count` or `exists`."""
        return task.partition("-")[0]

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self._over:
            raise RuntimeError("the episode has ended: reset first")
        text = action.strip()
        valid = text in self._possible
        answered = valid and text.startswith("answer ")
        solved = text == f"answer [{self._world.scene.answer}]"
        reply = ("You are right!" if solved else "You are wrong!") if answered else NOTHING_HAPPENS
        if valid and not answered:
            reply = self._world.do(text)
        self._texts.append((text, reply))
        truncated = not answered and len(self._texts) > self.max_turns
        self._over = answered or truncated
        return reply, float(solved), answered, truncated, self._info(valid, solved)

    def _info(self, valid: bool, solved: bool) -> Info:
        self._possible = [*self._world.possible(), *(f"answer [{answer}]" for answer in ANSWERS)]
        return {"score": float(solved), "solved": solved, "valid": valid, "actions": list(self._possible)}

    @property
    def expert(self) -> IqaExpert | None:
        """The scripted expert for the running episode, which has read all its texts; None before the first reset."""
        if self._task is None:
            return None
        read, notes = self._notes or (1, Notes.of(self._texts[0][1], self._source.view))
        for action, reply in self._texts[read:]:
            notes.read(action, reply)
        self._notes = len(self._texts), notes
        return IqaExpert(notes)

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling: arguments, task and actions since the reset; the kitchen is rebuilt from them."""
        actions = [action for action, _ in self._texts[1:]] if self._task is not None else []
        return {"arguments": self._arguments, "task": self._task, "actions": actions}

    __setstate__ = replay


def _opening(world: Kitchen) -> str:
    return f"Question: {world.scene.question}\n{world.look()}"


@cache
def solvable(source: Source, max_turns: int) -> tuple[dict[str, int], int]:
    """Task -> turns of the expert, for the split's number of tasks of each type and answer; and how many were rejected."""
    found, rejected = dict[str, int](), 0
    for key, names in generator.candidates(source).items():
        quota, taken = round(SIZES[source.split] * SHARES[key]), 0
        for name in names:
            if taken == quota:
                break
            turns = efficient(generator.scene(source, name), max_turns)
            if turns is None:
                rejected += 1
            else:
                found[name] = turns
                taken += 1
    ordered = sorted(found, key=lambda name: generator.share(f"{source.seed} mix {name}"))
    return {name: found[name] for name in ordered}, rejected


def efficient(scene: Scene, max_turns: int) -> int | None:
    """Turns that the expert needs; None if it does not answer within the limit."""
    world = Kitchen(scene)
    notes = Notes.of(_opening(world), scene.size.view)
    for turn in range(1, max_turns + 1):
        action = IqaExpert(notes).action()
        if action.startswith("answer "):
            return turn if action == f"answer [{scene.answer}]" else None
        notes.read(action, world.do(action))
    return None


def _one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise UserError(f"env.{key}={value}: must be one of {', '.join(allowed)}")


def _within(key: str, value: Any, low: int, high: int) -> Any:
    if not low <= value <= high:
        raise UserError(f"env.{key}={value}: must be from {low} to {high}")
    return value

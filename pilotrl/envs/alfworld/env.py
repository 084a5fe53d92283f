"""The ALFWorld environment: `reset`, `step` and the arguments, over our simulator or the original engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pilotrl.envs import Info, replay
from pilotrl.envs.alfworld import tasks, textworld
from pilotrl.envs.alfworld.belief import Notes
from pilotrl.envs.alfworld.expert import AlfWorldExpert
from pilotrl.envs.alfworld.generator import SPLITS, Source
from pilotrl.envs.alfworld.text import NOTHING_HAPPENS, WORDINGS
from pilotrl.envs.alfworld.world import World
from pilotrl.types import UserError

FIDELITY: dict[str, dict[str, Any]] = {
    "small": {"places": 8, "clutter": 1.0, "max_turns": 14},
    "medium": {"places": 20, "clutter": 1.0, "max_turns": 24},
    "original": {"places": 40, "clutter": 1.5, "max_turns": 30},
}
"""Values that `fidelity` sets for keys left null."""


ENGINES = ("ours", "textworld")


class Household(Protocol):
    """The protocol of a simulator of one episode: `World`, or `Game` for ALFWorld's own engine."""

    def opening(self) -> str: ...

    def possible(self) -> Mapping[str, Any]: ...

    def do(self, deed: Any, /) -> str: ...

    def solved(self) -> bool: ...


class AlfWorld:
    """Find, treat and place things in the rooms of a household, in the words of ALFWorld (arXiv 2010.03768).

    Actions: `go to R`, `take O from R`, `put O in/on R`, `open R`, `close R`, `use O`, `heat O with R`, `cool O with R`,
    `clean O with R`, `slice O with O`, `examine R`, `examine O` (the one in hand), `look`, `inventory`, where R is a place
    such as `cabinet 2` and O a thing such as `mug 1`. One thing in hand at a time.
    Observation: at reset the places of the room and the task; then the reply to the action, `Nothing happens.` where it
    is not possible.
    Reward: 1 when the task is done, else 0. Score: the same.
    End: terminated when the task is done; truncated after `max_turns`.
    Arguments: `split` (train, dev, test: other tasks in the same rooms; unseen: other rooms); `seed` of rooms and tasks;
    `wording` (put: that of ALFWorld 0.3 and AgentGym; move: that of 0.4); `surprises`, the share of things that lie
    anywhere they can, not where they usually are; `fidelity` (small, medium, original), which decides those left None of
    `places` in a room, at most, `clutter` (things a place besides those of the task), `max_turns`; `engine` (ours, or
    textworld: ALFWorld's own games from `data_dir`, None for where its downloads land, in its own engine).
    Raises UserError for invalid values.
    References: ALFWorld (arXiv 2010.03768), ALFRED (arXiv 1912.01734), AgentGym (arXiv 2406.04151).
    """

    chance = 0.01

    def __init__(
        self,
        *,
        split: str,
        max_turns: int | None,
        seed: int,
        fidelity: str,
        wording: str,
        places: int | None,
        clutter: float | None,
        surprises: float,
        engine: str,
        data_dir: str | None,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        _one_of("split", split, tuple(SPLITS))
        _one_of("fidelity", fidelity, tuple(FIDELITY))
        _one_of("wording", wording, tuple(WORDINGS))
        _one_of("engine", engine, ENGINES)
        usual = FIDELITY[fidelity]
        size = _within("places", usual["places"] if places is None else places, 6, 60)
        full = _within("clutter", usual["clutter"] if clutter is None else clutter, 0, 5)
        self.max_turns: int = _within("max_turns", usual["max_turns"] if max_turns is None else max_turns, 1, 1000)
        self._source = Source(split, seed, size, full, _within("surprises", surprises, 0, 1))
        self._wording = WORDINGS[wording]
        self._games = textworld.games(data_dir, split, seed) if engine == "textworld" else None
        self.tasks = list(self._turns if self._games is None else self._games)
        if not self.tasks:
            raise UserError(
                f"env.max_turns={self.max_turns}: no task of split {split} can be solved in so few; raise it"
            )
        self._task: str | None = None
        self._world: Household | None = None
        self._over = True

    @property
    def _turns(self) -> dict[str, int]:
        """Task -> turns of the expert, for generated tasks."""
        return tasks.solvable(self._source, self.max_turns).turns

    def _begin(self, task: str) -> tuple[Household, int | None]:
        """The simulator of a task, and the turns that an efficient agent needs for it, if known."""
        if self._games is not None:
            return textworld.Game(self._games[task]), None
        par = self._turns[task]
        return World(tasks.scene(self._source, task), self._wording), par

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        self._world, par = self._begin(task)
        self._task, self._over = task, False
        self._texts: list[tuple[str, str]] = [("", self._world.opening())]
        self._notes: tuple[int, Notes] | None = None
        return self._texts[0][1], self._info(self._world, True, False) | {"par": par}

    def level(self, task: str) -> str:
        """Type of the task, the first word of its name: `heat`."""
        return task.partition("-")[0]

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        world = self._world
        if world is None or self._over:
            raise RuntimeError("the episode has ended: reset first")
        deed = self._possible.get(action.strip())
        reply = NOTHING_HAPPENS if deed is None else world.do(deed)
        self._texts.append((action, reply))
        solved = deed is not None and world.solved()
        truncated = not solved and len(self._texts) > self.max_turns
        self._over = solved or truncated
        return reply, float(solved), solved, truncated, self._info(world, deed is not None, solved)

    def _info(self, world: Household, valid: bool, solved: bool) -> Info:
        self._possible = world.possible()
        return {"score": float(solved), "solved": solved, "valid": valid, "actions": sorted(self._possible)}

    @property
    def expert(self) -> AlfWorldExpert | None:
        """The scripted expert for the running episode, which has read all its texts; None before the first reset."""
        if self._world is None:
            return None
        read, notes = self._notes or (1, Notes.of(self._texts[0][1]))
        for action, reply in self._texts[read:]:
            notes.read(action, reply)
        self._notes = len(self._texts), notes
        return AlfWorldExpert(notes, self._wording)

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling: arguments, task and actions since the reset; the rooms are rebuilt from them."""
        actions = [action for action, _ in self._texts[1:]] if self._task is not None else []
        return {"arguments": self._arguments, "task": self._task, "actions": actions}

    __setstate__ = replay


def _one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"env.{key}={value}: must be one of {', '.join(allowed)}")


def _within(key: str, value: Any, low: int, high: int) -> Any:
    if not low <= value <= high:
        raise UserError(f"env.{key}={value}: must be from {low} to {high}")
    return value

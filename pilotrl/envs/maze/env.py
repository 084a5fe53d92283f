"""The maze environment: `reset`, `step` and the arguments."""

from __future__ import annotations

from typing import Any

from pilotrl.envs import Info
from pilotrl.envs.maze.expert import MazeExpert
from pilotrl.envs.maze.tasks import NEAREST, SIZES, Source, scene, solvable
from pilotrl.envs.maze.walk import ENGINE_MOVES, MOVES, SIDES, Walk
from pilotrl.types import UserError


class Maze:
    """Walk to the goal of a maze of which only the adjacent walls are seen.

    Actions: `move up`, `move down`, `move left`, `move right`. A wall stops a move, and anything else does nothing.
    Observation: positions of the goal and the agent, and on which sides of the agent there are walls; `Success` on the goal.
    Reward: 1 on the goal, else 0. Score: the same.
    End: terminated on the goal; truncated after `max_turns`. The 51st action is answered by `Failure`.
    Arguments: `split` (train, dev, test: other starts and goals in the same mazes; unseen: other mazes; original:
    LMRL-Gym's single maze, for which only `max_turns` matters); `seed` of mazes and tasks; `rows` and `columns` with
    the outer walls (odd, 5 to 31); `loops`, the share of inner walls that are opened; `distance` from start to goal, in
    moves, at most; `max_turns`, None for 18, or the engine's 51 in the original.
    Raises UserError for values that make no maze.
    References: LMRL-Gym (arXiv 2311.18232), AgentGym (arXiv 2406.04151).
    """

    chance = 0.05

    def __init__(
        self, *, split: str, max_turns: int | None, seed: int, rows: int, columns: int, loops: float, distance: int
    ) -> None:
        for key, value, good, span in (
            ("split", split, split in (*SIZES, "original"), f"one of {', '.join(SIZES)}, original"),
            ("rows", rows, rows in range(5, 32, 2), "an odd number from 5 to 31"),
            ("columns", columns, columns in range(5, 32, 2), "an odd number from 5 to 31"),
            ("loops", loops, 0 <= loops <= 1, "from 0 to 1"),
            ("distance", distance, distance >= NEAREST, f"at least {NEAREST}"),
            ("max_turns", max_turns, max_turns in (None, *range(1, 52)), "from 1 to 51"),
        ):
            if not good:
                raise UserError(f"env.{key}={value}: must be {span}")
        self.max_turns = max_turns or (ENGINE_MOVES + 1 if split == "original" else 18)
        self._source = Source(split, seed, rows, columns, loops, distance)
        self._turns = solvable(self._source, self.max_turns).turns if self.max_turns >= NEAREST else {}
        self.tasks = list(self._turns)
        if not self.tasks:
            raise UserError(
                f"env.max_turns={self.max_turns}: no maze of split {split} can be solved in so few; raise it"
            )
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        par = self._turns[task]
        self._walk = Walk(*scene(self._source, task))
        self._taken, self._over = 0, False
        return self._walk.view(), self._info(True) | {"par": par}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self._over:
            raise RuntimeError("the episode has ended: reset first")
        self._taken += 1
        text = self._walk.move(action.strip())
        solved = self._walk.solved
        truncated = not solved and self._taken >= self.max_turns
        self._over = solved or truncated
        return text, float(solved), solved, truncated, self._info(action.strip() in MOVES)

    def _info(self, valid: bool) -> Info:
        solved = self._walk.solved
        return {"score": float(solved), "solved": solved, "valid": valid, "actions": list(MOVES)}

    @property
    def expert(self) -> MazeExpert | None:
        """The scripted expert for the running episode; None before the first reset."""
        return MazeExpert(self._walk) if hasattr(self, "_walk") else None


def resolve(observation: str, action: str, reply: str = "") -> str:
    """The move that an action makes, in words; "" for what is none of the four, and where a wall stops it."""
    way = MOVES.get(action.strip())
    walled = any(step == way and side in observation for side, step in SIDES.items())
    return "" if way is None or walled else action.strip()

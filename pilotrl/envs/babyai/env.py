"""The BabyAI environment: `reset`, `step` and the arguments, over minigrid."""

from __future__ import annotations

from typing import Any

from pilotrl.envs import Info, replay
from pilotrl.envs.babyai import goals, tasks
from pilotrl.envs.babyai.belief import Mind
from pilotrl.envs.babyai.commands import LIST, UNCHANGED, UNKNOWN, commands
from pilotrl.envs.babyai.expert import BabyAiExpert
from pilotrl.envs.babyai.game import LEVELS, Game
from pilotrl.envs.babyai.text import COMPLETED, WORDINGS, described, mission
from pilotrl.envs.babyai.view import View
from pilotrl.types import UserError

FIDELITY: dict[str, dict[str, Any]] = {
    "small": {"levels": (*tasks.EIGHTEEN, *tasks.MORE), "wording": "short", "min_turns": 2, "max_turns": 10},
    "original": {"levels": tasks.EIGHTEEN, "wording": "full", "min_turns": 1, "max_turns": 20},
}
"""Values that `fidelity` sets for keys left null."""


class BabyAi:
    """Missions in rooms with balls, boxes, keys and doors, in AgentGym's texts over minigrid (BabyAI, arXiv 1810.08272).

    Actions: `turn left`, `turn right`, `move forward`, `go to O k`, `pickup O k` (`pick up` too, unless `strict`), `drop`,
    `toggle`, `go through D k`, `toggle and go through D k`, `check available actions`, where O is a thing such as `red ball`,
    D a door such as `grey closed door`, and k its number in the last observation.
    Observation: at reset the mission; always the things in sight and where they are, and what the agent faces and carries;
    or why an action did nothing.
    Reward: 1 when the mission is done, else 0. Score: the same.
    End: terminated when the mission is done; truncated after `max_turns`.
    Arguments: `split` (train, dev, test: other seeds of the levels; unseen: other levels); `strict`: only AgentGym's
    spelling is understood; `list_actions`: observations end with the actions, as AgentGym's server has it; `fidelity`
    (small, original), which decides those left None of `levels` (names such as GoToRedBall), `wording` (full, AgentGym's;
    short), `min_turns` (tasks that the expert solves in fewer turns are left out), `max_turns`.
    Raises UserError for values that leave no task.
    References: BabyAI (arXiv 1810.08272), Minigrid (arXiv 2306.13831), AgentGym (arXiv 2406.04151).
    """

    chance = 0.28

    def __init__(
        self,
        *,
        split: str,
        fidelity: str,
        levels: list[str] | None,
        wording: str | None,
        strict: bool,
        list_actions: bool,
        min_turns: int | None,
        max_turns: int | None,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        _one_of("split", split, tasks.SPLITS)
        _one_of("fidelity", fidelity, FIDELITY)
        usual = FIDELITY[fidelity]
        self.wording: str = wording or usual["wording"]
        _one_of("wording", self.wording, WORDINGS)
        self.max_turns: int = usual["max_turns"] if max_turns is None else max_turns
        chosen = levels or (tasks.UNSEEN if split == "unseen" else usual["levels"])
        for level in chosen:
            _one_of("levels", level, tasks.table())
        self._par = tasks.listed(split, chosen, usual["min_turns"] if min_turns is None else min_turns, self.max_turns)
        if not self._par:
            raise UserError(
                f"env.max_turns={self.max_turns}: no task of split {split} can be solved in so few; raise it"
            )
        self.tasks = list(self._par)
        self.strict, self.list_actions = strict, list_actions
        self._game = Game()
        self._task: str | None = None
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        par = self._par[task]
        level, _, number = task.rpartition("-")
        self.begin(level, int(number))
        self._task = task
        return self._with_actions(f"Your goal: {self._mission}\n{self._look()}"), self._info(True, False) | {"par": par}

    def begin(self, level: str, seed: int) -> None:
        """Start any of AgentGym's levels."""
        assert level in LEVELS
        self._view, self._over, self._actions = self._game.start(level, seed), False, list[str]()
        self._mission = mission(self._game.mission)
        self._mind, self._unread = Mind.of(self._view, goals.read(self._mission)), list[View]()
        self._commands = commands(self._view)

    def level(self, task: str) -> str:
        """Name of the level: `GoToRedBall`."""
        return task.rpartition("-")[0]

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self._over:
            raise RuntimeError("the episode has ended: reset first")
        self._actions.append(action)
        text, valid, solved = self._reply(self._understood(action))
        truncated = not solved and len(self._actions) >= self.max_turns
        self._over = solved or truncated
        return self._with_actions(text), float(solved), solved, truncated, self._info(valid, solved)

    def _understood(self, action: str) -> str:
        text = action.lower().strip()
        return text if self.strict or not text.startswith("pick up ") else text.replace("pick up", "pickup", 1)

    def _reply(self, action: str) -> tuple[str, bool, bool]:
        """The reply to an action, whether the action was possible, and whether it completed the mission."""
        ways, refused = self._commands
        if "check" in action:
            return "You can take the following actions: " + ", ".join(ways), action == LIST, False
        if action not in ways:
            return (refused.get(action, UNKNOWN) if action else UNCHANGED), False, False
        if not ways[action].moves:
            return UNCHANGED, True, False
        self._view, ended, succeeded = self._game.do(ways[action])
        self._unread.append(self._view)
        self._commands = commands(self._view)
        return self._look() + (COMPLETED if ended else ""), True, ended and succeeded

    def _look(self) -> str:
        return described(self._view, self.wording)

    def _with_actions(self, text: str) -> str:
        listed = ", ".join(f'"{action}"' for action in self._commands.ways)
        return f"{text}\nAvailable actions: [{listed}]" if self.list_actions else text

    def _info(self, valid: bool, solved: bool) -> Info:
        return {"score": float(solved), "solved": solved, "valid": valid, "actions": list(self._commands.ways)}

    @property
    def expert(self) -> BabyAiExpert | None:
        """The scripted expert for the running episode, which has seen all its views; None before the first reset."""
        if self._task is None:
            return None
        for view in self._unread:
            self._mind.look(view)
        self._unread = []
        return BabyAiExpert(self._mind, asked=self._actions[-1:] == [LIST])

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling: arguments, task and actions since the reset; the grid is rebuilt from them."""
        actions = self._actions if self._task is not None else []
        return {"arguments": self._arguments, "task": self._task, "actions": actions}

    __setstate__ = replay


def _one_of(key: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise UserError(f"env.{key}={value}: must be one of {', '.join(allowed)}")

"""Any registered Gymnasium environment with text observations and text actions: `env=gymnasium env.id=NAME`."""

from __future__ import annotations

from typing import Any

from pilotrl.config import trust
from pilotrl.envs import Expert, Info, replay
from pilotrl.types import UserError, WorldError

SPLITS = {"train": (0, 1000), "dev": (1000, 1100), "test": (1100, 1300)}
"""Range of the seeds of each split."""


class GymnasiumText:
    """A Gymnasium environment whose spaces are `Text`. A task is a seed of its reset.

    Actions: its own. Those that its action space does not contain cost a turn: `Nothing happens.`
    Observation: its own.
    Reward: its own. Score: the sum of rewards so far, held between 0 and 1.
    End: as it says, and truncated after `max_turns`. Solved: what its info says in `solved` or `is_success`, else that it
    terminated with a score of 1.
    Arguments: `id` of the registered environment (`module:Name-v0` imports the module first, which has to be trusted, as that
    of any class), `kwargs` for its constructor,
    `split` (train, dev, test: other seeds), `max_turns`.
    Raises UserError if there is no such environment, its spaces are not of text, or that of its actions has the default
    `charset`, which holds no blank.
    """

    expert: Expert | None = None

    def __init__(self, *, split: str, id: str | None, kwargs: dict[str, Any], max_turns: int) -> None:
        if split not in SPLITS:
            raise UserError(f"env.split={split}: must be one of {', '.join(SPLITS)}")
        if id is None:
            raise UserError("env.id=null: has no value; give the id of a registered environment, env.id=NAME")
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        self._env, self.max_turns = _made(id, kwargs), max_turns
        self.tasks = [str(seed) for seed in range(*SPLITS[split])]
        self._task: str | None = None
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        if task not in self.tasks:
            raise KeyError(task)
        try:
            text, info = self._env.reset(seed=int(task))
        except Exception as error:  # any error of a third-party environment
            raise WorldError(f"{self._arguments['id']}: {error}") from error
        self._task, self._over, self._actions, self._score, self._text = task, False, list[str](), 0.0, text
        return text, self._info(True, False, info) | {"par": None}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self._over:
            raise RuntimeError("the episode has ended: reset first")
        self._actions.append(action)
        valid = self._env.action_space.contains(action)
        text, reward, terminated, truncated, info = "Nothing happens.", 0.0, False, False, dict[str, Any]()
        if valid:
            try:
                text, reward, terminated, truncated, info = self._env.step(action)
            except Exception as error:  # any error of a third-party environment
                raise WorldError(f"{self._arguments['id']}: {error}") from error
        self._score = min(max(self._score + float(reward), 0.0), 1.0)
        solved = bool(info.get("solved", info.get("is_success", self._score == 1.0))) and terminated
        truncated = not terminated and (truncated or len(self._actions) >= self.max_turns)
        self._over = terminated or truncated
        return text, float(reward), terminated, truncated, self._info(valid, solved, info)

    def _info(self, valid: bool, solved: bool, info: Info) -> Info:
        listed = {"actions": list(info["actions"])} if "actions" in info else {}
        return {"score": self._score, "solved": solved, "valid": valid and bool(info.get("valid", True))} | listed

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling: arguments, task and actions since the reset."""
        return {
            "arguments": self._arguments,
            "task": self._task,
            "actions": self._actions if self._task is not None else [],
        }

    __setstate__ = replay


def _made(name: str, kwargs: dict[str, Any]) -> Any:
    import gymnasium
    from gymnasium.spaces import Text

    if ":" in name:
        trust.check("env.id", name, name.partition(":")[0])
    try:
        env = gymnasium.make(name, disable_env_checker=True, **kwargs)
    except Exception as error:  # from gymnasium, the import, or the constructor
        raise UserError(f"env.id={name}: cannot be made ({error})") from error
    for space in (env.observation_space, env.action_space):
        if not isinstance(space, Text):
            raise UserError(f"env.id={name}: has {space} where text is needed; wrap it in spaces of Text")
    actions = env.action_space
    assert isinstance(actions, Text)
    if actions.max_length > 1 and actions.character_set == Text(1).character_set:  # which is what nobody has chosen
        raise UserError(
            f"env.id={name}: its actions can hold letters and digits only, no blank; give its action space the characters of "
            f"its actions, Text(max_length={actions.max_length}, charset=string.printable)"
        )
    return env

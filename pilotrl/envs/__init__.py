"""Environments: Gymnasium's contract with text observations and text actions, and one package for each environment.

    env = pilotrl.envs.load("webshop", split="test")
    text, info = env.reset(options={"task": env.tasks[0]})
    text, reward, terminated, truncated, info = env.step("search[red shoes]")

An environment is one Python file with a class and one YAML file `conf/env/NAME.yaml` that names it and gives every
keyword of its constructor a value. `info` has `score` (0 to 1, the environment's own measure so far), `solved`, `valid`
(the action was understood), if they can be listed `actions`, and at reset `par` (turns an efficient agent needs, or
None). An invalid action costs a turn and gets the environment's own reply; it never raises. Stepping an ended episode
raises RuntimeError. An environment that fails, such as a server that is down, raises `WorldError`.

Some attributes may be missing. `concurrent = True`, of the class, says that `reset`, `step` and `close` may run in a thread
beside those of other instances, and end by themselves in time; they then do while the model generates for other episodes.
`main_thread = True` says that it can be used in the main thread alone.
`close()` gives back what the environment holds, such as a session of a server: after its last episode, or its failure.
`level(task)` is a name for tasks that are alike, such as their difficulty: success is then shown by level too.
`chance`, of the class, is what a player who does not read earns on average in its default settings; 0 where it is missing.
`tools` makes it one that is played by calls of tools, and `system` is its part of the system prompt: `envs/tools.py`.

May import `config` (not its schema), `endpoint` (its HTTP), `store` and `types`. Never here: the model, prompts, judges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

from pilotrl.config import search_path
from pilotrl.config.instantiate import NAME, make
from pilotrl.types import RunFailed, UserError, WorldError

Info = dict[str, Any]

MIXTURE = "mixture"
"""Stands for an environment that is made of others; its tasks have names such as `maze/maze-0-1,1-3,3`."""


class Expert(Protocol):
    """A scripted agent for the running episode of one environment. It knows what the policy has seen, and no more."""

    def plan(self) -> list[str]:
        """Steps from the next turn on, one an action: what to achieve, never the action string."""
        ...

    def action(self) -> str:
        """The next action, from any state that the policy may have reached."""
        ...

    def thought(self) -> str:
        """What was seen and what is wanted, in one short line: never the step that the plan would name, nor the action."""
        ...

    def detour(self) -> str | None:
        """A harmless exploring action that is not in the plan, for demonstrations with detours; None if there is none."""
        ...


NO_THOUGHT = "-"
"""Stands for a thought where there is none: a reply with an empty one could not be read."""


@runtime_checkable
class LooseExpert(Protocol):
    """What an expert has that can also say what to achieve without the action's own words, and leaves the how to the player."""

    def loose(self) -> list[str]:
        """The steps of `plan`, one for one, in words of the goal at most: no name, number or direction that the action has and
        the first observation has not. With what the player has seen, a step tells which action it is, or an equal one."""
        ...


@runtime_checkable
class SubgoalExpert(Protocol):
    """What an expert has that can also plan in steps that last: it says which of them each of its actions is for."""

    def subgoals(self) -> list[str]:
        """One for each step of `plan`; actions in a row with the same one are one step. A goal on the way, in words that stay the
        same until it is reached, such as `get a mug`: no more than the player can know, and never an action string."""
        ...


@runtime_checkable
class FlexibleExpert(Protocol):
    """What an expert has that knows of several actions which serve its next step equally, such as places to look into."""

    def equal(self, action: str) -> str:
        """The step of `plan` that an action takes which serves as well as the expert's own; empty for any other action."""
        ...


class Env(Protocol):
    """The protocol that the rollout needs of an environment."""

    tasks: Sequence[str]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]: ...

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]: ...

    @property
    def max_turns(self) -> int | None: ...

    @property
    def expert(self) -> Expert | None: ...


def begun(env: Env, task: str) -> tuple[str, Info]:
    """`env.reset` to a task. Raises UserError for an environment that gives something else than it has to."""
    found: Any = env.reset(options={"task": task})
    if not (
        isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], str) and isinstance(found[1], Mapping)
    ):
        raise UserError(f"env={_class(env)}: reset() gave {_short(found)}; must give a text and a dictionary, info")
    return found[0], dict(found[1])


def stepped(env: Env, action: str) -> tuple[str, float, bool, bool, Info]:
    """`env.step`. Raises UserError for an environment that gives something else than it has to, RunFailed for a reward or a
    score that is no finite number."""
    found: Any = env.step(action)
    if not (isinstance(found, tuple | list) and len(found) == 5):
        many = f"{len(found)} values" if isinstance(found, tuple | list) else _short(found)
        raise UserError(f"env={_class(env)}: step() gave {many}; must give text, reward, terminated, truncated, info")
    text, reward, terminated, truncated, info = found
    if not (isinstance(text, str) and isinstance(info, Mapping)):
        raise UserError(
            f"env={_class(env)}: step() gave {_short(found)}; must give a text first, and info as a dictionary"
        )
    if missing := [key for key in ("score", "solved", "valid") if key not in info]:
        raise UserError(
            f"env={_class(env)}: info of step() has no {', '.join(missing)}; must have score, solved and valid"
        )
    results = info.get("results", ())
    if not (isinstance(results, list | tuple) and all(isinstance(one, str) for one in results)):
        raise UserError(f"env={_class(env)}: results in info of step() are {_short(results)}; must be a list of texts")
    for name, value in {"reward": reward, "score": info["score"]}.items():
        if not math.isfinite(value):
            raise RunFailed(f"env={_class(env)}: step() gave {name}={value}; the reward term of it has to be finite")
    return text, float(reward), bool(terminated), bool(truncated), dict(info)


def thought_of(expert: Expert) -> str:
    """An expert's thought, in one line; `NO_THOUGHT` from one that has none, or no method for it."""
    written = expert.thought() if hasattr(expert, "thought") else ""
    return " ".join(written.split()) or NO_THOUGHT


def whole(said: Any) -> str:
    """What somebody else's world says, word for word but for halves of characters, which JSON can hold and no tokenizer can
    read."""
    return str(said).encode("utf-8", "replace").decode()


def _class(env: Env) -> str:
    return f"{type(env).__module__}.{type(env).__qualname__}"


def _short(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


@runtime_checkable
class Mixed(Protocol):
    """An environment that is made of others."""

    environments: dict[str, Env]
    """Those that were built, by name."""

    def environment(self, task: str) -> Env:
        """The one that a task is of."""
        ...


def concurrent(env: Env, task: str | None = None) -> bool:
    """Whether an environment, of a mixture the one that the task is of, may answer in a thread beside others."""
    return bool(getattr(env.environment(task) if task and isinstance(env, Mixed) else env, "concurrent", False))


def main_thread(env: Env) -> bool:
    """Whether an environment, or one of a mixture, can be used in the main thread alone."""
    return bool(getattr(env, "main_thread", False))


def chance(env: Env, task: str | None = None) -> float:
    """What a player earns who does not read: `chance` of the environment, of a mixture that of the one that the task is of."""
    return float(getattr(env.environment(task) if task and isinstance(env, Mixed) else env, "chance", 0.0))


def level(env: Env, task: str) -> str:
    """The level of a task, by the environment's own `level`; empty where it has none. Of a mixture `babyai/GoToRedBall`."""
    if isinstance(env, Mixed):
        name, _, own = task.partition("/")
        return f"{name}/{found}" if (found := level(env.environment(task), own)) else ""
    return str(env.level(task)) if hasattr(env, "level") else ""


def parts(env: Env) -> list[Env]:
    """The environments that were built for a mixture; of another one itself."""
    return [*env.environments.values()] if isinstance(env, Mixed) else [env]


@runtime_checkable
class Remote(Protocol):
    """An environment on a server."""

    def probe(self) -> None:
        """Raises UserError, which begins with a key of its settings, if the server does not answer. Asked before a run."""
        ...


def replay(env: Any, state: dict[str, Any]) -> None:
    """`__setstate__` of a pickled environment: builds it from `arguments`, resets it to `task`, and repeats `actions`."""
    env.__init__(**state["arguments"])
    if state["task"] is not None:
        env.reset(options={"task": state["task"]})
    for action in state["actions"]:
        env.step(action)


def digest(env: Env, task: str) -> str:
    """What a task is, in 16 hexadecimal digits: a hash of its first observation and, where the environment ships an expert, of
    all that the expert does and is answered. Two tasks with one digest are one task, whatever they are called. Empty where the
    environment fails, which is not known to be the task's."""
    try:
        text, _ = begun(env, task)
        said, over = [text], False
        while (expert := env.expert) is not None and not over:
            action = expert.action()
            text, reward, terminated, truncated, _ = stepped(env, action)
            said += [action, text, str(float(reward))]
            over = terminated or truncated
    except WorldError:
        return ""
    return sha256("\0".join(said).encode("utf-8", "replace")).hexdigest()[:16]


def build(settings: dict[str, Any]) -> Env:
    """An environment from its settings: `_target_` and the keywords of that class."""
    env: Env = make(settings)
    return env


@contextmanager
def opened(settings: dict[str, Any]) -> Iterator[Env]:
    """An environment from its settings, closed in the end."""
    env = build(settings)
    try:
        yield env
    finally:
        for part in parts(env):
            getattr(part, "close", lambda: None)()


def load(name: str, /, **overrides: Any) -> Env:
    """An environment by name, with the values of `conf/env/NAME.yaml` unless overridden.

    Raises UserError for a name without a file.
    """
    return build(settings_of(name) | overrides)


def settings_of(name: str, key: str = "env") -> dict[str, Any]:
    """The values of `env/NAME.yaml` in `conf/` or in a folder of the user's own.

    Raises UserError, which names `key`, if there is no such file.
    """
    from omegaconf import OmegaConf

    if search_path.find("env", name) is None:
        known = ", ".join(search_path.options("env"))
        raise UserError(f"{key}={name}: there is no such environment; there are {known}; -cd FOLDER adds yours")
    held = OmegaConf.to_container(OmegaConf.create(search_path.settings("env", name)), resolve=True)
    assert isinstance(held, dict)
    return {str(k): v for k, v in held.items()}


def class_of(settings: Mapping[str, Any]) -> str:
    """What the class is called that files of several names may have: webshop, of `_target_: pilotrl.envs.webshop.WebShop`."""
    return str(settings["_target_"]).split(".")[-2]


def called(settings: Mapping[str, Any]) -> str:
    """The environment's name, that of its file; of settings of which no file is known, that of the class."""
    return str(settings.get(NAME) or class_of(settings))


def name_of(settings: Mapping[str, Any]) -> str:
    """The name that tasks have as their environment: as `called`, but `MIXTURE` for a mixture, whose tasks are its members'."""
    return MIXTURE if settings["_target_"] == "pilotrl.envs.mixture.Mixture" else called(settings)


def home(env: str, task: str) -> str:
    """The environment that a task belongs to: `env` or, if that is a mixture, the prefix of the task's name."""
    return task.partition("/")[0] if env == MIXTURE else env

"""A mixture of environments as one: trained on in proportion to weights, and tested together with held-out ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from pilotrl.config import search_path, trust
from pilotrl.envs import MIXTURE, Env, Expert, Info, Remote, build, home, settings_of
from pilotrl.types import UserError

Settings = dict[str, Any]
LEARNED = ("train", "dev")
"""Splits used in training and for choosing its length: held-out environments have no tasks in them."""


@cache
def _read(name: str, key: str, where: tuple[Path, ...]) -> Settings:
    """Cached: a mixture is built for every concurrent episode, and reading the file takes longest."""
    return settings_of(name, key)


class Mixture:
    """The tasks of several environments. A task's name has the environment's before it: `maze/maze-23-7,2-5,5`.

    Actions, observation, reward, end: those of the environment that the task is of.
    Arguments: `split`, which every environment has to have; `trains`, names of the environments to learn from;
    `weights`, their shares of the tasks of `train`, in the same order, None for equal ones (elsewhere all environments
    have equal shares); `holds_out`, names of those that have tasks only in splits other than train and dev;
    `options`, by name: keys of an environment that differ from its own file; None for none.
    The number of tasks of each environment follows its share; the environment with the fewest tasks limits all.
    Raises UserError for names, weights and options that make no mixture.
    References: trained and held-out environments as in PilotRL (arXiv 2508.00344).
    """

    def __init__(
        self,
        *,
        split: str,
        trains: list[str],
        weights: list[float] | None,
        holds_out: list[str],
        options: dict[str, Settings] | None,
    ) -> None:
        shares = _shares(trains, weights)
        parts = members(trains=trains, holds_out=holds_out, options=options)
        self._members = {name: settings | {"split": split} for name, settings in parts.items()}
        if split != "train":
            shares = dict.fromkeys(trains if split in LEARNED else parts, 1.0)
        self.tasks: Sequence[str] = _tasks(json.dumps([(name, self._members[name], shares[name]) for name in shares]))
        self.environments: dict[str, Env] = {}
        self._world: Env | None = None

    @property
    def concurrent(self) -> bool:
        """Whether one of its environments is; `pilotrl.envs.concurrent` says it of a task's."""
        return self._any("concurrent")

    @property
    def main_thread(self) -> bool:
        """Whether one of its environments can be used there alone."""
        return self._any("main_thread")

    def _any(self, attribute: str) -> bool:
        classes = [trust.find("_target_", str(settings["_target_"])) for settings in self._members.values()]
        return any(getattr(one, attribute, False) for one in classes)

    def probe(self) -> None:
        """Probes those of its environments that are on a server. Raises UserError if one does not answer."""
        for name, settings in self._members.items():
            if isinstance(env := build(settings), Remote):
                try:
                    env.probe()
                except UserError as error:
                    raise UserError(f"options.{name}.{error}") from None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        self._world = self.environment(task)
        return self._world.reset(seed=seed, options={"task": task.removeprefix(f"{home(MIXTURE, task)}/")})

    def environment(self, task: str) -> Env:
        """The environment that a task is of, built with its first one. KeyError for a task that is not of this split."""
        if task not in self.tasks:
            raise KeyError(task)
        name = home(MIXTURE, task)
        if name not in self.environments:
            self.environments[name] = build(self._members[name])
        return self.environments[name]

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self._world is None:
            raise RuntimeError("no episode has begun: reset first")
        return self._world.step(action)

    @property
    def max_turns(self) -> int | None:
        """Of the running episode; None before the first reset."""
        return self._world.max_turns if self._world else None

    @property
    def expert(self) -> Expert | None:
        """The scripted expert for the running episode; None if its environment ships none, and before the first reset."""
        return self._world.expert if self._world else None


def members(
    *, trains: Sequence[str], holds_out: Sequence[str], options: Mapping[str, Settings] | None, **_: Any
) -> dict[str, Settings]:
    """The environments of a mixture, from its keywords: settings by name, those that are trained first.

    Raises UserError for a name that is unknown, a mixture, or given twice, and for options of an environment not in it.
    """
    found: dict[str, Settings] = {}
    changes = {name: dict(values) for name, values in dict(options or {}).items()}
    for key, names in (("env.trains", trains), ("env.holds_out", holds_out)):
        for name in names:
            own = _read(name, key, tuple(search_path.FOLDERS))
            if str(own["_target_"]).startswith(f"{__name__}."):
                raise UserError(f"{key}={name}: is a mixture itself; name its environments")
            if name in found:
                raise UserError(f"{key}={name}: is named twice in env.trains and env.holds_out; leave one out")
            found[name] = own | _known(name, own, changes.get(name, {}))
    for name in changes:
        if name not in found:
            raise UserError(f"env.options.{name}: is not in env.trains or env.holds_out; add it there, or leave it out")
    return found


def _known(name: str, own: Settings, options: Settings) -> Settings:
    """An environment's options. Raises UserError for one that it does not have."""
    known = sorted(own.keys() - {"_target_", "split"})
    for key, value in options.items():
        if key not in known:
            raise UserError(f"env.options.{name}.{key}={value}: there is no such key; there are {', '.join(known)}")
    return options


def _shares(trains: list[str], weights: list[float] | None) -> dict[str, float]:
    """Weight of each environment that is trained."""
    if not trains:
        raise UserError("env.trains=[]: must name at least one environment")
    given = [1.0] * len(trains) if weights is None else weights
    if not isinstance(given, list) or len(given) != len(trains):
        raise UserError(
            f"env.weights={given}: must be a list of {len(trains)}, a number for each of {', '.join(trains)}"
        )
    if not all(isinstance(weight, int | float) and weight > 0 for weight in given):
        raise UserError(f"env.weights={given}: must be numbers above 0; leave an environment out of env.trains instead")
    return dict(zip(trains, given, strict=True))


@cache
def _tasks(mixed: str) -> tuple[str, ...]:
    """Tasks of what `mixed` lists as JSON: (name, settings, share) of each environment."""
    parts = json.loads(mixed)
    shares = {name: share for name, _, share in parts}
    return blended({name: _build(name, settings).tasks for name, settings, _ in parts}, shares)


def _build(name: str, settings: Settings) -> Env:
    """Build an environment; in a UserError, replaces its key by that of the mixture's option."""
    try:
        return build(settings)
    except UserError as error:
        line = str(error)
        raise UserError(
            line if line.startswith("env.split=") else line.replace("env.", f"env.options.{name}.")
        ) from error


def blended(tasks: Mapping[str, Sequence[str]], shares: Mapping[str, float]) -> tuple[str, ...]:
    """Full names of the tasks of a mixture: numbers by share, as the smallest environment allows, at least one of each.

    Each environment's tasks are spread evenly over the list, so that any long part of it has the shares of the whole.
    If not all tasks are taken, the choice is random and fixed.
    """
    size = min(len(tasks[name]) / shares[name] for name in tasks)
    positions: list[tuple[float, str]] = []
    for name, every in tasks.items():
        chosen = Random(name).sample(list(every), max(1, round(size * shares[name])))
        positions += [((i + 0.5) / len(chosen), f"{name}/{task}") for i, task in enumerate(chosen)]
    return tuple(task for _, task in sorted(positions))

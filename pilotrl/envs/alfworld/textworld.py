"""ALFWorld's own games in its own engine, which the extra `alfworld` installs: slow, and what ours is held against."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pilotrl.envs.alfworld import text
from pilotrl.envs.alfworld.generator import share
from pilotrl.types import UserError, WorldError

FOLDERS = {"train": "train", "valid": "train", "test": "valid_seen", "unseen": "valid_unseen"}
"""Where a split's games lie. Of the original's training games a tenth is our `valid`."""
VALID = 0.9
UNSUPPORTED = ("movable", "Sliced")
"""Kinds of game that ALFWorld leaves out."""
WELCOME = "-= Welcome to TextWorld, ALFRED! =-"


class Game:
    """A game being played, with the same questions and answers as our `World`.

    `game` is the path of a `game.tw-pddl` file, or what such a file holds. Raises WorldError where the engine fails.
    """

    def __init__(self, game: Path | dict[str, Any]) -> None:
        self._env = _engine()
        try:
            self._env.load(json.loads(game.read_text()) if isinstance(game, Path) else game)
            for info, name in _names(self._env._entity_infos).items():
                self._env._entity_infos[info].name = name
            self._state = self._env.reset()
        except Exception as error:  # whatever a planner written in C and Python throws
            raise WorldError(f"ALFWorld's engine cannot load {game}: {error}") from error

    def opening(self) -> str:
        """The first observation, without the welcome."""
        said: str = self._state.feedback
        return said.removeprefix(WELCOME).strip().replace("\n\n", "\n")

    def possible(self) -> dict[str, str]:
        """Every action that does something now."""
        return {command: command for command in self._state["admissible_commands"]}

    def do(self, command: str) -> str:
        """Carries out an action; what is said then, without "You arrive at loc 7."."""
        try:
            self._state, _, _ = self._env.step(command)
        except Exception as error:
            raise WorldError(f"ALFWorld's engine failed at {command!r}: {error}") from error
        said: str = self._state.feedback
        return text.ARRIVAL.sub("", said) if said.startswith("You arrive at loc ") else said

    def solved(self) -> bool:
        """Is what was asked for so now?"""
        return bool(self._state["won"])


def _engine() -> Any:
    try:
        from textworld import EnvInfos
        from textworld.envs import PddlEnv

        return PddlEnv(EnvInfos(won=True, admissible_commands=True))
    except ImportError as error:
        raise UserError(
            f"env.engine=textworld: cannot be imported ({error}); pip install 'pilotrl[alfworld]', or choose engine ours"
        ) from error


def _names(entities: Mapping[str, Any]) -> dict[str, str]:
    """Entity -> name as ALFWorld numbers them: of a kind, the first in the order of their ids has the highest number."""
    kinds = {entity: entity.split("_bar_")[0] + "basin" * ("basin" in entity) for entity in sorted(entities)}
    left = Counter(kind for entity, kind in kinds.items() if "_bar_" in entity)
    found = {}
    for entity, kind in kinds.items():
        found[entity] = f"{kind} {left[kind]}" if "_bar_" in entity else kind
        left[kind] -= 1
    return found


@cache
def games(data_dir: str | None, split: str, seed: int) -> dict[str, Path]:
    """Games of a split by the name of their folder. UserError where there are none."""
    root = Path(data_dir or Path(os.environ.get("ALFWORLD_DATA", "~/.cache/alfworld")).expanduser() / "json_2.1.1")
    folder = root / FOLDERS[split]
    found = {str(path.parent.relative_to(folder)): path for path in sorted(folder.rglob("game.tw-pddl"))}
    kept = {
        name: path
        for name, path in found.items()
        if _dealt(split, name, seed)
        and not any(word in name for word in UNSUPPORTED)
        and '"solvable": true' in path.read_text()
    }
    if not kept:
        raise UserError(f"env.data_dir={data_dir}: no game.tw-pddl in {folder}; download them with alfworld-download")
    return kept


def _dealt(split: str, name: str, seed: int) -> bool:
    """Whether a game of the folder is of the split."""
    return FOLDERS[split] != "train" or (share(f"{seed} {name}") >= VALID) == (split == "valid")

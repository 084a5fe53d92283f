"""ALFWorld's own games in its original engine (the extra `alfworld`): slow, the reference for our simulator."""

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

FOLDERS = {"train": "train", "dev": "train", "test": "valid_seen", "unseen": "valid_unseen"}
"""Folder of each split's games. A tenth of the original's training games is our `dev`."""
VALID = 0.9
UNSUPPORTED = ("movable", "Sliced")
"""Kinds of game that ALFWorld leaves out."""
WELCOME = "-= Welcome to TextWorld, ALFRED! =-"


class Game:
    """An episode of an original game, with the methods of our `World`.

    `game` is the path of a `game.tw-pddl` file, or its contents. Raises WorldError if the engine fails.
    """

    def __init__(self, game: Path | dict[str, Any]) -> None:
        self._env = _engine()
        try:
            self._env.load(json.loads(game.read_text()) if isinstance(game, Path) else game)
            for info, name in _names(self._env._entity_infos).items():
                self._env._entity_infos[info].name = name
            self._state = self._env.reset()
        except Exception as error:  # any error of its planner, which is C and Python
            raise WorldError(f"ALFWorld's engine cannot load {game}: {error}") from error

    def opening(self) -> str:
        """The first observation, without the welcome."""
        reply: str = self._state.feedback
        return reply.removeprefix(WELCOME).strip().replace("\n\n", "\n")

    def possible(self) -> dict[str, str]:
        """Every action that is possible now."""
        return {command: command for command in self._state["admissible_commands"]}

    def do(self, command: str) -> str:
        """Carries out an action; returns the reply, without "You arrive at loc 7."."""
        try:
            self._state, _, _ = self._env.step(command)
        except Exception as error:
            raise WorldError(f"ALFWorld's engine failed at {command!r}: {error}") from error
        reply: str = self._state.feedback
        return text.ARRIVAL.sub("", reply) if reply.startswith("You arrive at loc ") else reply

    def solved(self) -> bool:
        """Whether the task is done."""
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
    """Entity -> name, numbered as in ALFWorld: of each kind, the first by id has the highest number."""
    kinds = {entity: entity.split("_bar_")[0] + "basin" * ("basin" in entity) for entity in sorted(entities)}
    left = Counter(kind for entity, kind in kinds.items() if "_bar_" in entity)
    found = {}
    for entity, kind in kinds.items():
        found[entity] = f"{kind} {left[kind]}" if "_bar_" in entity else kind
        left[kind] -= 1
    return found


@cache
def games(data_dir: str | None, split: str, seed: int) -> dict[str, Path]:
    """Games of a split by the name of their folder. Raises UserError if there are none."""
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
    """Whether a game of the folder belongs to the split."""
    return FOLDERS[split] != "train" or (share(f"{seed} {name}") >= VALID) == (split == "dev")

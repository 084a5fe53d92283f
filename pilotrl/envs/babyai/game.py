"""The wrapper around minigrid: runs its levels move by move, and turns its images into views."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np

from pilotrl.envs.babyai.view import Cell, Pose, Thing, View, Way, scan
from pilotrl.types import WorldError

LEVELS = (
    *("GoToRedBallGrey", "GoToRedBall", "GoToRedBallNoDists", "GoToObjS6", "GoToLocalS8N7", "GoToObjMazeS7"),
    *("GoToImpUnlock", "GoToSeqS5R2", "GoToRedBlueBall", "GoToDoor", "GoToObjDoor", "Open", "OpenRedDoor"),
    *("OpenDoorLoc", "OpenRedBlueDoorsDebug", "OpenDoorsOrderN4Debug", "Pickup", "UnblockPickup", "PickupLoc"),
    *("PickupDistDebug", "PickupAbove", "PutNextLocalS6N4", "PutNextS7N4Carrying", "Unlock", "UnlockLocalDist"),
    *("KeyInBox", "UnlockPickupDist", "BlockedUnlockPickup", "UnlockToUnlock", "ActionObjDoor", "FindObjS7"),
    *("KeyCorridorS6R3", "OneRoomS20", "MoveTwoAcrossS8N9", "SynthS5R2", "SynthLoc", "SynthSeq", "MiniBossLevel"),
    *("BossLevel", "BossLevelNoUnlock"),
)
"""AgentGym's forty levels, in its order: its task i is level i % 40 with seed i // 40."""

SIZES = {"GoToObjS6": {"room_size": 4}}
"""Arguments of levels that were different in the version of minigrid that AgentGym used."""


class Game:
    """The simulator of an episode. Raises WorldError if minigrid fails."""

    def __init__(self) -> None:
        self._levels: dict[str, Any] = {}

    def start(self, level: str, seed: int) -> View:
        """Start a level with a seed; returns the first view."""
        if level not in self._levels:
            self._levels[level] = _made(level)
        self.grid = self._levels[level]
        try:
            seen, _ = self.grid.reset(seed=seed)
        except Exception as error:  # any error of minigrid's generators
            raise WorldError(f"minigrid cannot make {level} {seed}: {error}") from error
        self._image = seen["image"]
        return self._view()

    @property
    def mission(self) -> str:
        return str(self.grid.mission)

    def do(self, way: Way) -> tuple[View, bool, bool]:
        """Makes moves until one changes nothing. Returns the view, whether the episode ended, and with success."""
        ended, reward = False, 0.0
        for move in way.moves:
            seen, reward, ended, _, _ = self.grid.step(move)
            if np.array_equal(seen["image"], self._image):
                break
            self._image = seen["image"]
        return self._view(), bool(ended), float(reward) > 0

    def _view(self) -> View:
        x, y = map(int, self.grid.agent_pos)
        pose, held = Pose(x, y, int(self.grid.agent_dir)), self.grid.carrying
        image: list[list[list[int]]] = self._image.tolist()
        seen: dict[Cell, Thing | None] = {}
        for column, row, cell in scan(pose):
            kind, color, state = image[column][row]
            if kind != UNSEEN:
                seen[cell] = _thing(kind, color, state)
        return View(pose, Thing(held.type, held.color) if held else None, seen)


UNSEEN = 0
KINDS = {2: "wall", 4: "door", 5: "key", 6: "ball", 7: "box"}
COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
STATES = ("open", "closed", "locked")


@cache
def _thing(kind: int, color: int, state: int) -> Thing | None:
    """The thing that three numbers of minigrid's image stand for; None for a free cell."""
    name = KINDS.get(kind)
    return Thing(name, COLORS[color], STATES[state] if name == "door" else "") if name else None


def _made(level: str) -> Any:
    """A minigrid level without wrappers, in the newest registered version."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import minigrid  # noqa: F401, registers its levels
    from gymnasium.envs.registration import load_env_creator, registry
    from minigrid.envs.babyai.core import roomgrid_level

    vars(roomgrid_level)["print"] = lambda *_: None  # of every mission that it rejects; stdout is for other threads too
    spec = max(
        (spec for spec in registry.values() if spec.name == f"BabyAI-{level}"), key=lambda spec: spec.version or 0
    )
    return load_env_creator(str(spec.entry_point))(**spec.kwargs | SIZES.get(level, {}))

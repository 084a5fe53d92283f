"""The tasks of BabyAI's splits: seeds of levels, with the turns that the expert needs, from a table in `par.txt`.

A level's line in `par.txt` has a character for each seed: the expert's turns in base 36; `.` if it needs more than twenty; `-`
if an earlier task has the same first observation. `python -m pilotrl.envs.babyai.tasks` rewrites that file (minutes).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path

from pilotrl.envs.babyai import goals
from pilotrl.envs.babyai.belief import Mind
from pilotrl.envs.babyai.commands import commands
from pilotrl.envs.babyai.expert import BabyAiExpert
from pilotrl.envs.babyai.game import Game
from pilotrl.envs.babyai.text import described, mission

TABLE = Path(__file__).with_name("par.txt")
SEEDS, MOST = 140, 20
EIGHTEEN = (
    *(
        "GoToRedBallGrey",
        "GoToRedBall",
        "GoToRedBallNoDists",
        "GoToObjS6",
        "GoToLocalS8N7",
        "GoToSeqS5R2",
        "GoToRedBlueBall",
    ),
    *("GoToDoor", "GoToObjDoor", "PickupLoc", "PickupDistDebug", "ActionObjDoor", "GoToObjMazeS7", "GoToImpUnlock"),
    *("PickupAbove", "FindObjS7", "OneRoomS20", "SynthLoc"),
)
"""The levels in AgentGym's expert data."""
MORE = ("OpenDoorLoc", "PutNextLocalS6N4")
UNSEEN = ("OpenRedDoor", "Open", "PutNextS7N4Carrying", "Pickup", "UnlockLocalDist")
"""Levels that are in no other split: keys and locked doors, things carried from the start, nine rooms."""
SPLITS = {"train": (0.0, 0.78), "dev": (0.78, 0.845), "test": (0.845, 1.0), "unseen": (0.0, 1.0)}


def listed(split: str, levels: Sequence[str], min_turns: int, max_turns: int) -> dict[str, int]:
    """Task -> turns of the expert, for a split's tasks that need `min_turns` to `max_turns`; in an order that mixes levels."""
    low, high = SPLITS[split]
    found = {
        f"{level}-{seed}": int(letter, 36)
        for level in levels
        for seed, letter in enumerate(table()[level])
        if letter.isalnum() and low <= share(f"{level}-{seed}") < high and min_turns <= int(letter, 36) <= max_turns
    }
    return {task: found[task] for task in sorted(found, key=lambda task: share(f"order {task}"))}


@cache
def table() -> dict[str, str]:
    """Level -> a character for each seed."""
    return dict(line.split() for line in TABLE.read_text().splitlines())


def share(text: str) -> float:
    """A number in [0, 1), hashed from the text; the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def par(game: Game, level: str, seed: int) -> tuple[str, int | None]:
    """The first observation of a task, and the expert's turns; None if it needs too many."""
    view = game.start(level, seed)
    said = mission(game.mission)
    first = f"{said} {described(view, 'full')}"
    mind = Mind.of(view, goals.read(said))
    for turn in range(1, MOST + 1):
        view, ended, solved = game.do(commands(view).ways[BabyAiExpert(mind).action()])
        if ended and solved:
            return first, turn
        mind.look(view)
    return first, None


def main() -> None:
    """Rewrite the table, for the levels that it lists."""
    game, known, lines = Game(), set[str](), []
    for level in table():
        letters = ""
        for seed in range(SEEDS):
            first, turns = par(game, level, seed)
            letters += "-" if first in known else "." if turns is None else "0123456789abcdefghijk"[turns]
            known.add(first)
        lines.append(f"{level} {letters}\n")
    TABLE.write_text("".join(lines))


if __name__ == "__main__":
    main()

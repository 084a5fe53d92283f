"""BabyAI against recorded episodes of AgentGym's server: first observations, every reply, who solves."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilotrl.envs import load
from pilotrl.envs.babyai.game import LEVELS

DATA = Path(os.environ.get("PILOTRL_PARITY_DATA") or Path(__file__).parents[2] / "../shared/data") / "trajectories"
EPISODES = DATA / "babyai.jsonl.xz"

pytestmark = pytest.mark.parity


def test_parity_episodes(tell: Callable[[str], None]) -> None:
    """Skips, and says so on the terminal even where reasons of skips are not shown."""
    if not EPISODES.is_file():
        reason = f"NO PARITY DATA: {EPISODES} is absent; set PILOTRL_PARITY_DATA to the folder that holds trajectories/"
        pytest.skip(reason)
    rows = [json.loads(line) for line in lzma.decompress(EPISODES.read_bytes()).decode().splitlines()]
    env: Any = load("babyai", fidelity="original", strict=True)
    first = same = solved = 0
    differing = []
    for row in rows:
        begins, wrong, done = replayed(env, row)
        first, same, solved = first + begins, same + (wrong is None), solved + done
        differing += [wrong] if wrong else []
    tell(f"babyai first observations: {first} / {len(rows)} matched")
    tell(f"babyai episodes: {same} / {len(rows)} identical in every observation; {solved} / {len(rows)} solved")
    tell(f"babyai differing: {differing[:3]}")
    assert first == len(rows)
    assert same >= 0.97 * len(rows)
    assert solved >= 0.99 * len(rows)


def replayed(env: Any, row: dict[str, Any]) -> tuple[bool, tuple[str, ...] | None, bool]:
    """Does the episode begin alike; the first difference, if any; is it solved?"""
    index = int(row["item_id"].rpartition("_")[2])
    env.begin(LEVELS[index % 40], index // 40)
    env.max_turns = len(row["conversation"])  # the recorded ones have a limit of their own
    said = [turn["text"].rpartition("Action:")[2].strip() for turn in row["conversation"][2:]]
    opening = f"Your goal: {env._mission}\n{env._look()}"
    begins = opening == row["conversation"][2]["text"]
    wrong = None if begins else (row["item_id"], opening, said[0])
    for action, expected in zip(said[1::2], [*said[2::2], None], strict=True):
        text, _, done, _, _ = env.step(action)
        if expected is not None and text.strip() != expected:
            wrong = wrong or (row["item_id"], action, text, expected)
        if done:
            return begins, wrong, True
    return begins, wrong, False

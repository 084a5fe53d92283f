"""How fast environments are, on one core: `python tests/envs/speed.py [NAME ...]`, all of them by default.

Processor time, not the clock's, so that a busy machine measures the same.
"""

from __future__ import annotations

import random
import sys
from time import process_time

from pilotrl import CONF
from pilotrl.envs import Env, load

SECONDS = 2.0


def steps(env: Env, draw: random.Random, expert: bool) -> float:
    """Steps a second with random legal actions, or with the expert's, resets included."""
    begin, turns = process_time(), 0
    while process_time() - begin < SECONDS:
        _, info = env.reset(options={"task": draw.choice(env.tasks)})
        over = False
        while not over:
            agent_spec = env.expert if expert else None
            action = agent_spec.action() if agent_spec else draw.choice(info["actions"])
            _, _, terminated, truncated, info = env.step(action)
            over, turns = terminated or truncated, turns + 1
    return turns / (process_time() - begin)


def resets(env: Env, draw: random.Random) -> float:
    """Resets a second."""
    begin, done = process_time(), 0
    while process_time() - begin < SECONDS:
        env.reset(options={"task": draw.choice(env.tasks)})
        done += 1
    return done / (process_time() - begin)


def main(names: list[str]) -> None:
    print(f"{'environment':12} {'build, s':>9} {'steps/s':>9} {'expert steps/s':>15} {'resets/s':>9}")
    ours = {path.stem for path in (CONF / "env").glob("*.yaml")} - {
        "agentgym",
        "gymnasium",
        "mcp",
    }  # which are somebody else's
    for name in names or sorted(ours):
        begin, draw = process_time(), random.Random(0)
        env = load(name)
        made = process_time() - begin
        row = steps(env, draw, False), steps(env, draw, True), resets(env, draw)
        print(f"{name:12} {made:9.2f} {row[0]:9,.0f} {row[1]:15,.0f} {row[2]:9,.0f}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""A server of OpenEnv with an environment of ours: `python openenv_server.py PORT SESSIONS`, of a Python that has OpenEnv."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_app
from pydantic import Field

LIVE: set[int] = set()
"""Sessions that are open."""


class Guess(Action):
    letter: str = Field(..., max_length=40)
    times: int = 1


class Told(Observation):
    said: str = ""
    left: int = 0


class Letters(Environment):
    """Name the letter that a seed hides. Some guesses do what no environment should."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        LIVE.add(id(self))
        self.said: list[str] = []

    def reset(self, seed: int | None = None, episode_id: str | None = None, **more: Any) -> Told:
        self.hidden, self.said = "abcdefgh"[(seed or 0) % 8], []
        return Told(said=f"Which letter is it? {more.get('hint', '')}".strip(), left=8)

    def step(self, action: Guess, timeout_s: float | None = None, **more: Any) -> Told:
        odd = {
            "die": lambda: os._exit(3),
            "fail": lambda: 1 / 0,
            "wait": lambda: time.sleep(600),
            "much": lambda: "x" * 2**21,
            "live": lambda: str(len(LIVE)),
            "said": lambda: " ".join(self.said),
        }
        self.said.append(action.letter)
        if action.letter in odd:
            return Told(said=str(odd[action.letter]()), left=8 - len(self.said))
        if action.letter == "nan":
            return Told(said="Done.", done=True, reward=float("nan"))
        right = action.letter == self.hidden
        text = "Yes. <|end|>" if right else "Earlier." if action.letter > self.hidden else "Later."
        return Told(said=text, left=8 - len(self.said), done=right, reward=1.0 if right else 0.0)

    def close(self) -> None:
        LIVE.discard(id(self))

    @property
    def state(self) -> State:
        return State(step_count=len(self.said))


if __name__ == "__main__":
    app = create_app(Letters, Guess, Told, env_name="letters", max_concurrent_envs=int(sys.argv[2]))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")

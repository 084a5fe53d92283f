"""AgentGym's own environments (arXiv 2406.04151), played over HTTP on servers that a user runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from pilotrl.envs import Expert, Info
from pilotrl.store.redact import is_address
from pilotrl.types import UserError, WorldError

SPLITS = {"train": range(7), "valid": range(7, 8), "test": range(8, 10)}
"""Last digit of the numbers of a split's tasks."""


@dataclass(frozen=True)
class Dialect:
    """How the server of one environment wants to be spoken to; what all have in common is in `AgentGym`."""

    tasks: int
    """Tasks it has, by number."""
    task: str = "data_idx"
    """What it calls the number of a task when it is reset."""
    id: str = "id"
    """What it calls the world."""
    text: str = "observation"
    """What it calls the text of a step."""
    prefix: str = ""
    """Of its paths."""
    misses: str = "\0"
    """How the reply to an action begins that was not understood."""
    closes: bool = False


DIALECTS = {
    "alfworld": Dialect(2420, task="game", misses="Nothing happens"),
    "babyai": Dialect(1800, misses="The action is not recognized", closes=True),
    "maze": Dialect(25, task="game", prefix="/maze"),
    "textcraft": Dialect(544, misses="Could not", closes=True),
    "webshop": Dialect(6910, task="session_id", id="env_idx", text="state"),
    "wordle": Dialect(1000, task="seed", prefix="/wordle", misses="invalid word"),
}


class AgentGym:
    """One of AgentGym's six servers as an environment. A task is called by its number there.

    Actions, observation: the server's, word for word; alfworld's list of possible actions is in `info["actions"]`.
    Reward: the server's, except maze's, which counts moves: there it is 1 on the goal and else 0.
    End: terminated where the server says done (solved: with a positive reward, in webshop with the full one); truncated
    after `max_turns`. No expert.
    Arguments: `name` (alfworld, babyai, maze, textcraft, webshop, wordle), `url` of the server, `split` (numbers ending in
    0 to 6 are train, 7 valid, 8 and 9 test), `tasks` (how many the server has; null: as AgentGym has them), `max_turns`,
    `timeout` in seconds of one request.
    Raises UserError for an unknown name or split and an address that is none; WorldError where the server does not
    answer, answers with an error (some come with status 200), or with something else than it should.
    """

    expert: Expert | None = None

    def __init__(self, *, split: str, name: str, url: str, tasks: int | None, max_turns: int, timeout: float) -> None:
        if name not in DIALECTS:
            raise UserError(f"env.name={name}: must be one of {', '.join(DIALECTS)}")
        if split not in SPLITS:
            raise UserError(f"env.split={split}: must be one of {', '.join(SPLITS)}")
        if not is_address(url):
            raise UserError(f"env.url={url}: must be the address of a server, as in http://127.0.0.1:36001")
        self.name, self.dialect, self.max_turns, self.timeout = name, DIALECTS[name], max_turns, timeout
        count = self.dialect.tasks if tasks is None else tasks
        self.tasks = [str(number) for number in range(count) if number % 10 in SPLITS[split]]
        if not self.tasks:
            raise UserError(f"env.tasks={tasks}: leaves no task for the split {split}; give at least 10")
        self.url = url.rstrip("/") + self.dialect.prefix
        self.http = requests.Session()
        unheard = Retry(
            total=3, connect=3, read=0, status=3, backoff_factor=0.2, status_forcelist=[503], allowed_methods=None
        )
        self.http.mount(
            self.url, HTTPAdapter(max_retries=unheard)
        )  # what was heard is not said twice: it may have acted
        self.world: int | None = None
        self.over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        if task not in self.tasks:
            raise KeyError(task)
        if self.world is None:
            made = self.post("/create", {})
            self.world = made if isinstance(made, int) else made["id"]  # webshop's is bare
        extra = {"world_type": "Text"} if self.name == "alfworld" else {}
        said = self.post("/reset", {self.dialect.id: self.world, self.dialect.task: int(task), **extra})
        text = said[0] if isinstance(said, list) else said["observation"]
        self.turn, self.over = 0, False
        return str(text), self._info(said, str(text), 0.0, False)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self.over:
            raise RuntimeError("the episode has ended: reset first")
        said = self.post("/step", {self.dialect.id: self.world, "action": action})
        text, terminated = str(said[self.dialect.text]), bool(said["done"])
        reward = float(said["reward"])
        if self.name == "maze":  # whose rewards are negative, and 0 on the goal
            reward = float(text.strip() == "Success")
        self.turn += 1
        truncated = not terminated and self.turn >= self.max_turns
        self.over = terminated or truncated
        return text, reward, terminated, truncated, self._info(said, text, reward, terminated)

    def _info(self, said: Any, text: str, reward: float, done: bool) -> Info:
        score = min(max(reward, 0.0), 1.0) if done else 0.0
        solved = score == 1.0 if self.name == "webshop" else score > 0.0
        info: Info = {"score": score, "solved": solved, "valid": not text.startswith(self.dialect.misses)}
        if isinstance(said, dict) and "available_actions" in said:
            info["actions"] = said["available_actions"]
        return info

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What the server answers. WorldError where that is not the answer to this."""
        try:
            reply = self.http.post(self.url + path, json=body, timeout=self.timeout)
            reply.raise_for_status()
            said = reply.json()
        except (requests.RequestException, ValueError) as error:
            raise WorldError(f"{self.url}{path}: {error}") from error
        needed = {"/create": {"id"}, "/reset": {"observation"}, "/step": {self.dialect.text, "reward", "done"}}.get(
            path, set()
        )
        if isinstance(said, dict) and not needed <= said.keys():  # {"error": ...} or {"detail": [...]}, with status 200
            raise WorldError(f"{self.url}{path}: {said}")
        return said

    def close(self) -> None:
        """Lets go of the world where the server can."""
        if self.world is not None and self.dialect.closes:
            with suppress(WorldError):
                self.post("/close", {"id": self.world})
        self.world, self.over = None, True

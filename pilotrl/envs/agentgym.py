"""AgentGym's own environments (arXiv 2406.04151), used over HTTP on servers that the user runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from tenacity import Retrying, retry_if_exception, retry_if_result, stop_after_attempt, wait_exponential

from pilotrl.endpoint import http
from pilotrl.envs import Expert, Info, whole
from pilotrl.store.redact import has_credentials, in_one_line, is_address
from pilotrl.types import UserError, WorldError

MOST = 10**6
"""Tasks of a server, and turns of an episode."""
UNSENT = 4
"""How often a request is sent to a server that refuses the connection, or answers with status 503."""
SPLITS = {"train": range(7), "dev": range(7, 8), "test": range(8, 10)}
"""Last digits of the task numbers in each split."""


@dataclass(frozen=True)
class Dialect:
    """The HTTP API of one environment's server, as far as it differs from the others."""

    tasks: int
    """Number of its tasks."""
    task: str = "data_idx"
    """Field for the number of a task in a reset."""
    id: str = "id"
    """Field for the id of an environment instance."""
    text: str = "observation"
    """Field for the observation of a step."""
    prefix: str = ""
    """Prefix of its paths."""
    misses: str = "\0"
    """Start of the reply to an action that was not understood."""
    closes: bool = False


DIALECTS = {
    "alfworld": Dialect(2420, task="game", misses="Nothing happens"),
    "babyai": Dialect(1800, misses="The action is not recognized", closes=True),
    "maze": Dialect(25, task="game", prefix="/maze"),
    "textcraft": Dialect(544, misses="Could not", closes=True),
    "webshop": Dialect(6910, task="session_id", id="env_idx", text="state", closes=True),
    "wordle": Dialect(1000, task="seed", prefix="/wordle", misses="invalid word"),
}


class AgentGym:
    """One of AgentGym's six servers as an environment. A task's name is its number there.

    Actions, observation: the server's, word for word; alfworld's list of possible actions is in `info["actions"]`.
    Reward: the server's, except maze's, which counts moves: there it is 1 on the goal and else 0.
    End: terminated where the server says done (solved: with a positive reward, in webshop with the full one); truncated
    after `max_turns`. No expert.
    Arguments: `name` (alfworld, babyai, maze, textcraft, webshop, wordle), `url` of the server, `split` (numbers ending in
    0 to 6 are train, 7 valid, 8 and 9 test), `tasks` (how many the server has; null: as AgentGym has them), `max_turns`,
    `timeout` in seconds of one request.
    Raises UserError for an unknown name or split and an invalid URL; WorldError if the server does not answer, or
    answers with an error (some come with status 200) or without the fields it should have, or has restarted.
    """

    concurrent = True
    expert: Expert | None = None
    leases: ClassVar[WeakValueDictionary[tuple[str, int | str], AgentGym]] = WeakValueDictionary()
    """Whose an instance on a server is, by address and id."""
    probed: ClassVar[set[tuple[str, str]]] = set()
    """Servers, by address and name, that have answered in this process."""

    def __init__(self, *, split: str, name: str, url: str, tasks: int | None, max_turns: int, timeout: float) -> None:
        if name not in DIALECTS:
            raise UserError(f"env.name={name}: must be one of {', '.join(DIALECTS)}")
        if split not in SPLITS:
            raise UserError(f"env.split={split}: must be one of {', '.join(SPLITS)}")
        if has_credentials(url) or "@" in url:
            raise UserError("env.url: holds a user or a password, which would be stored; give an address without")
        if {"?", "#"} & {*url}:
            raise UserError("env.url: holds a ? or a #, behind which keys may stand; give an address without")
        if not is_address(url):
            raise UserError(f"env.url={url}: must be the address of a server, as in http://127.0.0.1:36001")
        for key, value, most in (
            ("timeout", timeout, http.LONGEST),
            ("tasks", tasks, MOST),
            ("max_turns", max_turns, MOST),
        ):
            if value is not None and not 0 < value <= most:
                raise UserError(f"env.{key}={value}: must be above 0, at most {most:g}")
        self.name, self.dialect, self.max_turns, self.timeout = name, DIALECTS[name], max_turns, timeout
        count = self.dialect.tasks if tasks is None else tasks
        self.tasks = [str(number) for number in range(count) if number % 10 in SPLITS[split]]
        if not self.tasks:
            raise UserError(f"env.tasks={tasks}: leaves no task for the split {split}; give at least 10")
        self.url = url.rstrip("/") + self.dialect.prefix
        self.world: int | str | None = None
        self.over = True

    def probe(self) -> None:
        """Starts the first task in an environment of its own, once a process. Raises UserError if the server does not do that."""
        if (self.url, self.name) not in self.probed:
            try:
                self.reset(options={"task": self.tasks[0]})
            except WorldError as error:
                raise UserError(f"url={error}; start the server of {self.name}, or give its address") from None
            finally:
                self.close()
            self.probed.add((self.url, self.name))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        if task not in self.tasks:
            raise KeyError(task)
        while self.world is None:
            self._create()
        extra = {"world_type": "Text"} if self.name == "alfworld" else {}
        reply = self._ask("/reset", {self.dialect.task: int(task), **extra})
        text = whole(reply[0] if isinstance(reply, list) else reply["observation"])
        self.turn, self.over = 0, False
        return text, self._info(reply, text, 0.0, False)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self.over:
            raise RuntimeError("the episode has ended: reset first")
        reply = self._ask("/step", {"action": action})
        text, terminated = whole(reply[self.dialect.text]), bool(reply["done"])
        reward = float(reply["reward"])
        if self.name == "maze":  # whose rewards are negative, and 0 on the goal
            reward = float(text.strip() == "Success")
        self.turn += 1
        truncated = not terminated and self.turn >= self.max_turns
        self.over = terminated or truncated
        return text, reward, terminated, truncated, self._info(reply, text, reward, terminated)

    def _info(self, reply: Any, text: str, reward: float, done: bool) -> Info:
        score = min(max(reward, 0.0), 1.0) if done else 0.0
        solved = score == 1.0 if self.name == "webshop" else score > 0.0
        info: Info = {"score": score, "solved": solved, "valid": not text.startswith(self.dialect.misses)}
        if isinstance(reply, dict) and isinstance(actions := reply.get("available_actions"), list):
            info["actions"] = [*map(whole, actions)]
        return info

    def _create(self) -> None:
        """Have the server create an instance. An id that another episode has comes from a server that has restarted, and counts
        from 0 again: the other's lease ends, and the instance too, since the other's last request may have reached it."""
        created = self.post("/create", {})
        self.world = created if isinstance(created, int) else created["id"]  # webshop sends a bare number
        taken = (self.url, self.world) in self.leases
        self.leases[self.url, self.world] = self
        if taken:
            self.close()

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        """The reply to a POST about the leased instance. Raises WorldError where the lease has ended."""
        self._check(path)
        reply = self.post(path, {self.dialect.id: self.world, **body})
        self._check(path)
        return reply

    def _holds(self) -> bool:
        return self.world is not None and self.leases.get((self.url, self.world)) is self

    def _check(self, path: str) -> None:
        if not self._holds():
            raise WorldError(
                f"{self.url}{path}: the server has restarted, and {self.world} is no longer this episode's"
            )

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The server's reply to a POST, as JSON. Raises WorldError for an error, or a reply without the needed fields."""
        unsent = Retrying(  # what the server may have received is not repeated: it may have acted
            stop=stop_after_attempt(UNSENT),
            wait=wait_exponential(0.2),
            retry=retry_if_exception(lambda error: isinstance(error, http.NoReply) and not error.sent)
            | retry_if_result(lambda reply: reply.status == 503),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        try:
            reply = unsent(http.post, self.url + path, body, self.timeout)
            if not 200 <= reply.status < 300:
                raise ValueError(reply.line())
            said = reply.json()
        except (http.NoReply, ValueError) as error:
            raise WorldError(f"{self.url}{path}: {in_one_line(error)}") from None
        if not self._is_whole(path, said):  # an error with status 200, or nonsense
            raise WorldError(f"{self.url}{path}: {in_one_line(said) or 'an empty reply'}")
        return said

    def _is_whole(self, path: str, said: Any) -> bool:
        """Whether a reply has what is needed of it. Webshop sends a bare number for an id, and a list after a reset."""
        needed = {"/create": {"id"}, "/reset": {"observation"}, "/step": {self.dialect.text, "reward", "done"}}
        if path not in needed:
            return True
        if not isinstance(said, dict):
            return (path == "/create" and type(said) is int) or (
                path == "/reset" and isinstance(said, list) and said != []
            )
        if path == "/create":
            return isinstance(said.get("id"), int | str)
        numbers = [said[name] for name in {"reward", "done"} & needed[path] & said.keys()]
        return needed[path] <= said.keys() and all(isinstance(n, int | float) and isfinite(n) for n in numbers)

    def close(self) -> None:
        """Gives the instance back, if the server supports that; asks again where the server does not say that it did."""
        world = self.world if self._holds() else None
        self.world, self.over = None, True
        if world is None:
            return
        self.leases.pop((self.url, world), None)
        for _ in range(UNSENT if self.dialect.closes else 0):
            with suppress(WorldError):
                self.post("/close", {self.dialect.id: world})
                break

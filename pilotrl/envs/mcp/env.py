"""The environment `env=mcp`: see docs/mcp.md."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotrl.config import trust
from pilotrl.endpoint import http
from pilotrl.envs import Expert, Info, replay
from pilotrl.envs.mcp.session import Result, Server, Session, needed
from pilotrl.envs.mcp.tasks import McpTask, tasks_of
from pilotrl.envs.tools import Tool, ToolCall, calls
from pilotrl.store.redact import has_credentials, is_address
from pilotrl.types import NotUnderstood, UserError, WorldError

ANSWER: Tool = {
    "type": "function",
    "function": {
        "name": "answer",
        "description": "Gives the final answer, and ends the task.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}


@dataclass(frozen=True)
class Attempt:
    """An episode at its end, as a checker sees it."""

    task: McpTask
    calls: tuple[tuple[ToolCall, Result], ...]
    """What was asked of the server and what it said, whole, in order."""
    answer: str | None
    """None where the turns were used up."""
    folder: Path | None
    """That of the server's command, still as the server left it."""


class Mcp:
    """The tools of an MCP server. A task is a line of the task file, its first observation the instruction.

    Actions: calls of the server's tools, and of `answer`, which ends the episode (`pilotrl/envs/tools.py`).
    Observation: what the tools gave, cut to `result_chars` each.
    Reward: at the end the score: 1 if the answer is the task's but for case, blanks and a full stop at its end, else 0; or
    what `check` says. Solved: answered, with a score of 1.
    End: terminated by `answer`, truncated after `max_turns`. No expert.
    Each episode has a session of its own, of a command also a process and a folder.
    Arguments: those of conf/env/mcp.yaml.
    Raises UserError for values that are none, a task file that cannot be read, a package `mcp` that is not there; WorldError
    where the server fails, or does not answer in time.
    """

    concurrent = True
    expert: Expert | None = None

    def __init__(
        self,
        *,
        split: str,
        command: list[str] | None,
        url: str,
        variables: list[str],
        tasks_file: str | None,
        check: str | None,
        max_turns: int,
        start_timeout: float,
        timeout: float,
        result_chars: int,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        if tasks_file is None:
            raise UserError("env.tasks_file=null: has no value; give a file of tasks, env.tasks_file=tasks.jsonl")
        limits = {"timeout": timeout, "start_timeout": start_timeout}
        for key, value, most in (
            *((key, value, http.LONGEST) for key, value in limits.items()),
            ("result_chars", result_chars, 10**6),
        ):
            if not 0 < value <= most:
                raise UserError(f"env.{key}={value}: must be above 0, at most {most:g}")
        needed()
        self.server, self.check = _server(command, url, variables), _checker(check)
        self.file = tasks_of(tasks_file, split, scored=check is not None)
        self.tasks = [*self.file]
        self.max_turns, self.timeout, self.start_timeout, self.result_chars = (
            max_turns,
            timeout,
            start_timeout,
            result_chars,
        )
        self.tools: list[Tool] = [ANSWER]
        self.over = True
        self.answer: str | None = None
        self._task: str | None = None
        self._release: Callable[[], Any] = lambda: None

    def probe(self) -> None:
        """Starts a session. Raises UserError if the server does not do that."""
        try:
            self.reset()
        except WorldError as error:
            key = "url" if self.server.url else "command"
            raise UserError(f"{key}={error}; start it by hand to see what it lacks") from None
        finally:
            self.close()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        text = self.file[task].instruction
        self.close()
        self.session = Session(self.server, self.start_timeout)
        self._release = weakref.finalize(self, self.session.close)
        if any(tool["function"]["name"] == "answer" for tool in self.session.tools):
            self.close()
            raise WorldError("the server has a tool that is called answer, as the one that ends an episode is")
        self.tools = [*self.session.tools, ANSWER]
        self.over, self.answer = False, None
        self._task, self._actions, self._done = task, list[str](), list[tuple[ToolCall, Result]]()
        return text, {"score": 0.0, "solved": False, "valid": True, "par": None}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self.over:
            raise RuntimeError("the episode has ended: reset first")
        self._actions.append(action)
        try:
            asked, results = calls(action, self.tools), list[str]()
        except NotUnderstood as error:
            asked, results = [], [f"Nothing happens: {error}."]
        for call in asked:
            results.append(self._do(call))
            if self.answer is not None:
                break
        terminated = self.answer is not None
        truncated = not terminated and len(self._actions) >= self.max_turns
        score = self._score() if terminated or truncated else 0.0
        if terminated or truncated:
            self.close()
        info: Info = {"score": score, "solved": terminated and score == 1.0, "valid": bool(asked)}
        return "\n".join(results), score, terminated, truncated, info | ({"results": results} if asked else {})

    def close(self) -> None:
        """Ends the session, and the server that was started for it."""
        self.over = True
        self._release()

    def _do(self, call: ToolCall) -> str:
        if call.name == "answer":
            self.answer = str(call.arguments["text"])
            return "The task has ended."
        try:
            result = self.session.call(call.name, call.arguments, self.timeout)
        except WorldError:
            self.over = True
            raise
        self._done.append((call, result))
        more = len(result.text) - self.result_chars
        return result.text if more <= 0 else f"{result.text[: self.result_chars]}\n[cut here: {more} more characters]"

    def _score(self) -> float:
        task = self.file[str(self._task)]
        if self.check is None:
            return float(self.answer is not None and normalized(self.answer) == normalized(str(task.answer)))
        given = self.check(Attempt(task, tuple(self._done), self.answer, self.session.folder))
        if not isinstance(given, int | float) or not math.isfinite(given) or not 0 <= given <= 1:
            raise UserError(f"env.check={self._arguments['check']}: gave {given!r:.60}; must give a number from 0 to 1")
        return float(given)

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling: arguments, task and actions since the reset, which are sent to a new session."""
        return {"arguments": self._arguments, "task": self._task, "actions": self._actions if self._task else []}

    __setstate__ = replay


def normalized(text: str) -> str:
    """An answer without case, without more than a blank between words, and without a full stop at its end."""
    return " ".join(text.split()).casefold().rstrip(".")


def _server(command: list[str] | None, url: str, variables: list[str]) -> Server:
    """Raises UserError for values that reach no server."""
    if (command is None) == (not url):
        raise UserError(
            f"env.command={command}: either a command or env.url has to be given; env.command=[WORD,...] starts a server"
        )
    words = command if isinstance(command, list) else []
    if command is not None and not (words and words[0] and all(isinstance(word, str) for word in words)):
        raise UserError(f"env.command={command}: must be a list of words, env.command=[python,server.py]")
    if url and (has_credentials(url) or "@" in url):
        raise UserError("env.url: holds a user or a password, which would be stored; give an address without")
    if url and not is_address(url):
        raise UserError(f"env.url={url}: must be the address of a server, as in http://127.0.0.1:8000/mcp")
    if not isinstance(variables, list) or (lacking := [name for name in variables if str(name) not in os.environ]):
        raise UserError(
            f"env.variables={variables}: must be a list of variables that are set; export {', '.join(map(str, lacking))}"
        )
    return Server(command or [], {str(name): os.environ[str(name)] for name in variables}, url)


def _checker(path: str | None) -> Callable[[Attempt], Any] | None:
    if path is None:
        return None
    try:
        found: Callable[[Attempt], Any] | None = trust.beside("env.check", path, path.rpartition(".")[2])
    except (ImportError, ValueError) as error:
        raise UserError(f"env.check={path}: cannot be imported ({error}); give MODULE.FUNCTION") from error
    if not callable(found):
        raise UserError(f"env.check={path}: is no function; give MODULE.FUNCTION, which gets an Attempt")
    return found

"""Environments on servers of OpenEnv (https://github.com/huggingface/OpenEnv), which the user runs: `env=openenv`."""

from __future__ import annotations

import json
import socket
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from math import isfinite
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pilotrl.endpoint import http
from pilotrl.envs import Expert, Info, replay, whole
from pilotrl.envs.tools import parsed
from pilotrl.store.redact import has_credentials, in_one_line, is_address
from pilotrl.types import NotUnderstood, UserError, WorldError

SPLITS = ("train", "dev", "test")
MOST = 10**6
"""Tasks of a split, and turns of an episode."""
OWN = ("metadata", "done", "reward")
"""Fields that every action or observation has, and no player fills or reads."""


class OpenEnv:
    """An environment on a server of OpenEnv. A task is the seed of its reset.

    Actions: the text of one field of the server's action, or a JSON object of its fields. What the server finds invalid costs a
    turn. Observation: the fields named by `observation`, else all of them as JSON, or the one that there is as it stands.
    Reward: the server's. Score: the sum of rewards so far, or the last one, held between 0 and 1. Solved: done, with a score of
    `solved_at` or more.
    End: terminated where the server says done, truncated after `max_turns`. No expert.
    An instance has one session, a WebSocket, for its episodes one after the other.
    Arguments: those of conf/env/openenv.yaml.
    Raises UserError for values that are none, and a server whose action cannot be filled so; WorldError if the server does not
    answer, ends the session, or says what is no observation.
    """

    concurrent = True
    expert: Expert | None = None
    probed: ClassVar[set[str]] = set()
    """Servers that have answered in this process."""

    def __init__(
        self,
        *,
        split: str,
        url: str,
        seeds: dict[str, int],
        reset_with: dict[str, Any],
        action: str | None,
        action_fields: dict[str, Any],
        observation: list[str],
        score: str,
        solved_at: float,
        max_turns: int,
        timeout: float,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        _check(**{key: value for key, value in self._arguments.items() if key not in ("action", "split")})
        if split not in SPLITS:
            raise UserError(f"env.split={split}: must be one of {', '.join(SPLITS)}")
        _websockets()
        self.url, self.max_turns, self.timeout = url.rstrip("/"), max_turns, timeout
        ends = dict(zip(SPLITS, accumulate(seeds[name] for name in SPLITS), strict=True))
        self.tasks = [str(seed) for seed in range(ends[split] - seeds[split], ends[split])]
        self.reset_with, self.action, self.fields, self.shown = reset_with, action, action_fields, observation
        self.last, self.solved_at = score == "last", solved_at
        self.over = True
        self._task: str | None = None
        self._socket: Any = None
        self._release: Callable[[], Any] = lambda: None

    def probe(self) -> None:
        """Starts the first task twice, once a process. Raises UserError if the server fails, or does not begin it equally."""
        if self.url in self.probed:
            return
        try:
            if wrong := self._misfit():
                raise UserError(wrong)
            first, again = (self.reset(options={"task": self.tasks[0]})[0] for _ in range(2))
        except WorldError as error:
            raise UserError(f"url={error}; start the server, or give its address") from None
        finally:
            self.close()
        if first != again:
            raise UserError(
                f"url={self.url}: with one seed it begins as {in_one_line(first):.60} and as {in_one_line(again):.60}, and "
                "episodes of a task are compared; name fields that stay, env.observation=[NAME], or a server that heeds its seed"
            )
        self.probed.add(self.url)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        if task not in self.tasks:
            raise KeyError(task)
        if wrong := self._misfit():
            raise UserError(f"env.{wrong}")
        if self._socket is None:
            self._connect()
        said = self._ask("reset", {**self.reset_with, "seed": int(task)})
        text, _, done = self._read(said)
        if done:
            raise self._failed("its episode is over at its reset")
        self._task, self._actions, self.over = task, list[str](), False
        self._score, self._paid = 0.0, False
        return text, {"score": 0.0, "solved": False, "valid": True, "par": None}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self.over:
            raise RuntimeError("the episode has ended: reset first")
        self._actions.append(action)
        text, reward, terminated, valid = "", 0.0, False, True
        try:
            text, paid, terminated = self._read(self._ask("step", self._filled(action)))
            self._paid, reward = self._paid or paid is not None, paid or 0.0
        except NotUnderstood as error:
            text, valid = f"Nothing happens: {error}", False
        if terminated and not self._paid:
            raise self._failed("its episode ended without any reward")
        if valid:
            self._score = reward if self.last else self._score + reward
        truncated = not terminated and len(self._actions) >= self.max_turns
        self.over = terminated or truncated
        score = min(max(self._score, 0.0), 1.0)
        solved = terminated and score >= self.solved_at
        return text, reward, terminated, truncated, {"score": score, "solved": solved, "valid": valid}

    def close(self) -> None:
        """Ends the session."""
        self.over, self._socket = True, None
        self._release()

    def _misfit(self) -> str | None:
        """What is wrong with how actions are filled, by the server's own schema; settles how they are."""
        about = _schema(self.url, self.timeout)
        held, seen = (
            {k: v for k, v in _properties(about, kind).items() if k not in OWN} for kind in ("action", "observation")
        )
        needed = [key for key in about["action"].get("required", ()) if key not in (*OWN, *self.fields)]
        texts = [key for key, of in held.items() if key not in self.fields and _holds_text(of)]
        self.field = self.action or (texts[0] if needed in ([], texts) and len(texts) == 1 else None)
        self.one = next(iter(seen)) if len(seen) == 1 else None
        there = f"its action has {', '.join(held) or 'no field'}"
        if strange := [key for key in self.fields if key not in held]:
            return f"action_fields.{strange[0]}={self.fields[strange[0]]}: is no field; {there}"
        if self.action and self.action not in texts:
            return f"action={self.action}: is no field for a text; {there}; null takes actions in JSON"
        if self.action and (more := [key for key in needed if key != self.action]):
            return f"action={self.action}: it needs {', '.join(more)} too; set env.action_fields, or null for actions in JSON"
        if seen and (strange := [key for key in self.shown if key not in seen]):
            return f"observation=[{strange[0]}]: is no field; its observation has {', '.join(seen)}"
        return None

    def _filled(self, action: str) -> dict[str, Any]:
        """The fields of an action. Raises NotUnderstood for JSON that is none."""
        held = {self.field: whole(action)} if self.field else parsed(action)
        if not isinstance(held, dict):
            raise NotUnderstood("an action is a JSON object of its fields")
        return {**held, **self.fields}

    def _read(self, said: Any) -> tuple[str, float | None, bool]:
        """Text, reward and done of an observation. Raises WorldError for what is none."""
        seen = said.get("observation") if isinstance(said, dict) else None
        reward, done = (said.get("reward"), said.get("done")) if isinstance(seen, dict) else (None, None)
        if not isinstance(seen, dict) or not isinstance(done, bool):
            raise self._failed(f"this is no observation: {said}")
        if not (reward is None or (isinstance(reward, int | float) and isfinite(reward))):
            raise self._failed(f"this is no reward: {reward}")
        if missing := [name for name in self.shown if name not in seen]:
            raise self._failed(f"its observation has no {missing[0]}")
        if self.shown or self.one in seen:
            parts = [seen[name] for name in self.shown or [str(self.one)]]
            text = "\n".join(part if isinstance(part, str) else _json(part) for part in parts)
        else:
            text = _json({key: value for key, value in seen.items() if key not in OWN})
        return whole(text) or "(nothing)", None if reward is None else float(reward), done

    def _ask(self, kind: str, data: dict[str, Any]) -> Any:
        """The data of the server's answer. Raises NotUnderstood where it finds an action invalid, WorldError for other errors."""
        try:
            with suppress(Exception):  # of a session that has ended: why, it may have said before
                self._socket.send(json.dumps({"type": kind, "data": data}))
            said = self._socket.recv(timeout=self.timeout)
            held = json.loads(said) if isinstance(said, str) else None
        except TimeoutError:
            raise self._failed("gave no answer in time") from None
        except Exception as error:  # of the socket, or JSON that is none
            raise self._failed(error or type(error).__name__) from None
        about = held if isinstance(held, dict) else {}
        said = about.get("data")
        if isinstance(said, dict) and about.get("type") == "error":
            if said.get("code") == "VALIDATION_ERROR" and kind == "step":
                raise NotUnderstood(_invalid(said))
            raise self._failed(f"{said.get('code')}: {said.get('message')}{_capacity(said)}")
        if not isinstance(said, dict) or about.get("type") != "observation":
            raise self._failed(f"this is no answer: {held}")
        return said

    def _connect(self) -> None:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        try:
            there = (str(parts.hostname), parts.port or (443 if secure else 80))
            held = socket.create_connection(there, self.timeout)  # with which no redirect is followed
            limits = {"open_timeout": self.timeout, "close_timeout": 5, "max_size": http.LIMIT, "compression": None}
            limits["ping_interval"] = None  # an answer has its deadline, and servers ping by themselves
            address = f"{'wss' if secure else 'ws'}{self.url.removeprefix(parts.scheme)}/ws"
            self._socket = _websockets().connect(address, sock=held, **limits).__enter__()  # close() ends it
        except Exception as error:  # of the system, TLS, or the handshake
            raise self._failed(error or type(error).__name__) from None
        self._release = weakref.finalize(self, _end, self._socket)

    def _failed(self, why: object) -> WorldError:
        """The error, of an instance whose session is closed now."""
        self.close()
        return WorldError(f"{self.url}: {in_one_line(why)}")

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling: arguments, task and actions since the reset, which are sent in a new session."""
        return {"arguments": self._arguments, "task": self._task, "actions": self._actions if self._task else []}

    __setstate__ = replay


def _check(
    url: str, seeds: Any, reset_with: Any, action_fields: Any, observation: Any, score: str, **limits: float
) -> None:
    """Raises UserError for values that are none."""
    if has_credentials(url) or "@" in url:
        raise UserError("env.url: holds a user or a password, which would be stored; give an address without")
    if not is_address(url):
        raise UserError(f"env.url={url}: must be the address of a server, as in http://127.0.0.1:8000")
    if not (
        isinstance(seeds, dict)
        and seeds.keys() == {*SPLITS}
        and all(type(n) is int and 0 < n <= MOST for n in seeds.values())
    ):
        raise UserError(f"env.seeds={seeds}: must give train, dev and test each a number of tasks from 1 to {MOST}")
    for key, value in {"reset_with": reset_with, "action_fields": action_fields}.items():
        if not isinstance(value, dict):
            raise UserError(f"env.{key}={value}: must be a mapping, env.{key}={{name: value}}")
    if not isinstance(observation, list):
        raise UserError(f"env.observation={observation}: must be a list of fields, env.observation=[name]")
    if score not in ("sum", "last"):
        raise UserError(f"env.score={score}: must be one of sum, last")
    for key, most in {"timeout": http.LONGEST, "max_turns": MOST, "solved_at": 1}.items():
        if not 0 < limits[key] <= most:
            raise UserError(f"env.{key}={limits[key]}: must be above 0, at most {most:g}")


@lru_cache(maxsize=16)
def _schema(url: str, timeout: float) -> Mapping[str, Any]:
    """The JSON schemas of a server's action and observation. Raises WorldError if it has none."""
    try:
        reply = http.get(f"{url}/schema", timeout)
        if reply.status != 200:
            raise ValueError(reply.line())
        held = reply.json()
        if not all(isinstance(_properties(held, kind), dict) for kind in ("action", "observation")):
            raise ValueError("says nothing of its action")
    except (http.NoReply, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WorldError(f"{url}/schema: {in_one_line(error)}") from None
    return dict(held)


def _properties(about: Any, kind: str) -> dict[str, Any]:
    return about[kind].get("properties", {})  # type: ignore[no-any-return]


def _holds_text(about: Any) -> bool:
    """Whether the schema of a field admits any text."""
    every = about.get("anyOf", [about])
    return any(one.get("type") == "string" and not {"enum", "const", "format"} & one.keys() for one in every)


def _invalid(said: dict[str, Any]) -> str:
    found = said.get("errors")
    first = found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}
    where = ".".join(map(str, first.get("loc", ())))
    return in_one_line(f"{where}: {first.get('msg')}" if where else first.get("msg", said.get("message")))


def _capacity(said: dict[str, Any]) -> str:
    most = said.get("max_sessions")
    return (
        f"; it takes {most} sessions at once: raise its max_concurrent_envs, or set engine.slots={most}" if most else ""
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _end(held: Any) -> None:
    with suppress(Exception):
        held.send('{"type": "close"}')
    with suppress(Exception):
        held.close()


def _websockets() -> Any:
    """Raises UserError where the package is not installed."""
    try:
        from websockets.sync import client
    except ImportError as error:
        raise UserError(
            f"env=openenv: its package cannot be imported ({error}); pip install 'pilotrl[openenv]'"
        ) from error
    return client

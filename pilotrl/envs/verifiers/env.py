"""The environment `env=verifiers`: see docs/verifiers.md."""

from __future__ import annotations

import asyncio
import json
import weakref
from contextlib import AsyncExitStack, suppress
from math import isfinite
from typing import Any

from pilotrl.endpoint import http
from pilotrl.envs import Expert, Info, replay, whole
from pilotrl.envs.tools import Tool, calls
from pilotrl.envs.verifiers.seat import Asked, Seat
from pilotrl.envs.verifiers.tasks import checked, made, tasks_of
from pilotrl.store.redact import in_one_line
from pilotrl.types import NotUnderstood, UserError, WorldError

MOST = 10**6
"""Tasks that are read, and turns of an episode."""
ANSWER: Tool = {
    "type": "function",
    "function": {
        "name": "answer",
        "description": "Replies with a text, and calls no tool.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}


class Verifiers:
    """A taskset of verifiers, with the environment that its module exports or verifiers' own for one player.

    Actions: replies. Where a task has tools, calls of them (`pilotrl/envs/tools.py`), and of `answer`, which replies with a text.
    Observation: the messages since the last reply; the system prompt is in `system`.
    Reward: at the end verifiers', the weighted sum of its rewards. Score: the reward, held between 0 and 1. Solved: ended by
    itself, with a score of `solved_at` or more.
    End: terminated where the program ends, truncated where it asks for more than `max_turns` replies, and scored all the same.
    No expert. A step runs verifiers' program until it asks for the next reply; all of it runs in the caller's thread.
    Arguments: those of conf/env/verifiers.yaml.
    Raises UserError for values that are none, a taskset that cannot be made or is not trusted; WorldError where the program or a
    reward of it fails, gives no number, or takes longer than `timeout` seconds.
    """

    expert: Expert | None = None
    main_thread = True

    def __init__(
        self,
        *,
        split: str,
        taskset: str | None,
        config: dict[str, Any],
        held_out: dict[str, Any],
        tasks: int | None,
        solved_at: float,
        max_turns: int,
        timeout: float,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        limits = {"tasks": (tasks, MOST), "max_turns": (max_turns, MOST)}
        for key, (value, most) in {**limits, "timeout": (timeout, http.LONGEST), "solved_at": (solved_at, 1)}.items():
            if value is not None and not 0 < value <= most:
                raise UserError(f"env.{key}={value}: must be above 0, at most {most:g}")
        self.name = checked(taskset, config, held_out)
        self.held = tasks_of(self.name, split, config, held_out, tasks)
        self.tasks = [*self.held]
        self.max_turns, self.timeout, self.solved_at = max_turns, timeout, solved_at
        self.play = Play(self.name, {**config, **(held_out if split != "train" else {})}, timeout)
        self._end = weakref.finalize(self, self.play.close)
        self.tools: list[Tool] = []
        self.system = ""
        self.over = True
        self._task: str | None = None

    def probe(self) -> None:
        """Starts the first task. Raises UserError if its program fails before it asks for a reply."""
        try:
            self.reset()
        except WorldError as error:
            raise UserError(f"taskset={error}; play it with verifiers' own command to see what it lacks") from None
        finally:
            self.close()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        held = self.held[task]
        self.close()
        if not self.play.begin(held):
            raise WorldError(f"{self.name}: task {task} ended before it asked for a reply")
        self._task, self._actions, self.over = task, list[str](), False
        self.system = "\n\n".join(_text(one) for one in self.play.news if one.role == "system")
        return self._seen(), {"score": 0.0, "solved": False, "valid": True, "par": None}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self.over:
            raise RuntimeError("the episode has ended: reset first")
        self._actions.append(action)
        try:
            reply = _reply(action, self.tools, len(self._actions))
        except NotUnderstood as error:
            if len(self._actions) < self.max_turns:
                info: Info = {"score": 0.0, "solved": False, "valid": False}
                return f"Nothing happens: {error}.", 0.0, False, False, info
            reply = None
        asks = self._on(reply)
        info = {"score": 0.0, "solved": False, "valid": reply is not None}
        if results := [_text(one) for one in self.play.news if one.role == "tool"]:
            info["results"] = results
        if asks and len(self._actions) < self.max_turns:
            return self._seen(), 0.0, False, False, info
        if asks:
            self._on(None)
        self.over = True
        truncated = self.play.cut
        info["score"] = min(max(self.play.reward, 0.0), 1.0)
        info["solved"] = info["score"] >= self.solved_at and not truncated
        return "\n".join([*results, "The task has ended."]), self.play.reward, not truncated, truncated, info

    def close(self) -> None:
        """Ends the episode, and what its task and its tools hold."""
        self.over = True
        self.play.close()

    def _on(self, reply: Any) -> bool:
        try:
            return self.play.go(reply)
        except WorldError:
            self.over = True
            raise

    def _seen(self) -> str:
        self.tools = [*self.play.tools, ANSWER] if self.play.tools else []
        return "\n\n".join(_text(one) for one in self.play.news if one.role != "system") or "(nothing)"

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling: arguments, task and actions since the reset."""
        return {"arguments": self._arguments, "task": self._task, "actions": self._actions if self._task else []}

    __setstate__ = replay


class Play:
    """A program of verifiers, run in steps: until it asks for a reply, and until it is over. Its event loop is its own."""

    def __init__(self, name: str, config: dict[str, Any], timeout: float) -> None:
        self.name, self.timeout = name, timeout
        self.env = made(name, config)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.news = list[Any]()
        """What was said since the last reply, verifiers' messages."""
        self.tools = list[Tool]()
        self.reward = 0.0
        self.cut = False
        """It asked for more replies than there were turns."""

    def begin(self, task: Any) -> bool:
        """Starts a task. Whether it asks for a reply, or is over. Raises WorldError where it fails."""
        self.loop = asyncio.new_event_loop()
        self.cut, self.reply = False, None
        self.answer: asyncio.Future[Any] | None = None
        self.messages, self.told = list[Any](), 0
        self.asks = asyncio.Event()
        self.work = self.loop.create_task(self._run(task))
        return self._on()

    def go(self, reply: Any) -> bool:
        """Goes on with a reply, or with none, where no turn is left."""
        self.asks.clear()
        answer, self.answer, self.reply, self.cut = self.answer, None, reply, reply is None
        assert answer is not None
        answer.set_result(reply)
        return self._on()

    def close(self) -> None:
        """Ends the program where it stands."""
        loop, self.loop = self.loop, None
        if loop is None:
            return
        with suppress(Exception):
            for task in (left := asyncio.all_tasks(loop)):
                task.cancel()
            loop.run_until_complete(asyncio.wait(left, timeout=self.timeout) if left else loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    def _on(self) -> bool:
        assert self.loop is not None
        self.loop.run_until_complete(self._settled())
        self.news = [one for one in self.messages[self.told :] if one is not self.reply]
        self.told = len(self.messages)
        if not self.work.done():
            if self.asks.is_set():
                return True
            self.close()
            raise WorldError(f"{self.name}: took longer than {self.timeout:g} seconds")
        self.close()
        try:
            self.reward = _rewarded(self.work.result())
        except Exception as error:
            raise WorldError(f"{self.name}: {in_one_line(error)}") from error
        return False

    async def _settled(self) -> None:
        waiting = asyncio.ensure_future(self.asks.wait())
        await asyncio.wait({self.work, waiting}, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def _run(self, task: Any) -> Any:
        """The episode, as verifiers records it."""
        from verifiers.v1.agent import Agents
        from verifiers.v1.clients import EvalClientConfig, ModelContext

        env = self.env
        async with AsyncExitStack() as stack:
            await env.start()
            stack.push_async_callback(env.stop)
            toolsets = env.taskset.toolsets(env.taskset.config)
            for one in toolsets:
                await stack.enter_async_context(one._exit_stack)
                await one.setup()

            def seats(ctx: Any, completed: list[Any], *others: Any) -> Any:
                return Agents(env.config, lambda name, spec: Seat(name, spec, toolsets, self._ask, completed))

            env._episode_agents = seats  # the one thing that verifiers makes of a model
            return await env.run_episode(task.with_data(), ModelContext(model="", client=EvalClientConfig()))

    async def _ask(self, asked: Asked) -> Any:
        if self.answer is not None:
            raise WorldError("it asks for two replies at once, which is not supported")
        if asked.messages is not self.messages:
            self.messages, self.told = asked.messages, 0
        self.tools = asked.tools
        if self.cut:
            return None
        self.answer = asyncio.get_running_loop().create_future()
        self.asks.set()
        return await self.answer


def _rewarded(episode: Any) -> float:
    """The reward of an episode with one run. Raises WorldError where there is none."""
    if episode.errors:
        raise WorldError(episode.errors[-1].message)
    if len(episode.traces) != 1:
        raise WorldError(f"its program ran {len(episode.traces)} attempts; one is supported")
    held = episode.traces[0].rewards
    if not held or None in held.values() or not isfinite(reward := float(episode.traces[0].reward)):
        told = {name: one and one.score for name, one in held.items()}
        raise WorldError(f"its rewards are {told}, of which there is no number")
    return reward


def _reply(action: str, tools: list[Tool], turn: int) -> Any:
    """verifiers' message of an action. Raises NotUnderstood for one that is no call, where there are tools."""
    from verifiers.v1.types import AssistantMessage, ToolCall

    if not tools:
        return AssistantMessage(content=whole(action))
    asked = calls(action, tools)
    texts = [str(call.arguments["text"]) for call in asked if call.name == "answer"]
    named = [
        ToolCall(id=f"{turn}-{i}", name=call.name, arguments=json.dumps(call.arguments))
        for i, call in enumerate(asked)
        if call.name != "answer"
    ]
    if texts and named:
        raise NotUnderstood("answer is not called beside others")
    return AssistantMessage(content="\n".join(texts) if texts else None, tool_calls=named or None)


def _text(message: Any) -> str:
    parts = message.content
    if isinstance(parts, list):
        parts = "\n".join(part.text if part.type == "text" else f"[{part.type}]" for part in parts)
    said = whole(parts or "")
    return f"Assistant: {said}" if message.role == "assistant" else said

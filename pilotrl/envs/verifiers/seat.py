"""Who plays in a program of verifiers: a stand-in for its `Agent`, which asks for replies where that one asks a model.

verifiers has a chat program ask an OpenAI endpoint: a process of its own for each run, and a server that reads along. Here the
same loop runs in this process. What a task is promised is as it was: the trace with its messages, `@stop`, `setup`, `finalize`,
`@metric`, `@reward`, tools and their state, and a local runtime.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from pilotrl.envs.mcp.session import shown, sound, tool_of
from pilotrl.envs.tools import Tool
from pilotrl.types import WorldError


class Asked(NamedTuple):
    """What a reply is asked to."""

    messages: list[Any]
    """All of them so far, verifiers' own."""
    tools: list[Tool]


Player = Callable[[Asked], Awaitable[Any]]
"""Gives verifiers' message of a reply, or None where no turn is left."""


class Seat:
    """One of an environment's players, as far as `Env.run` uses verifiers' `Agent`: `run` and `interaction`."""

    trainable = True

    def __init__(self, name: str, config: Any, shared: list[Any], player: Player, completed: list[Any]) -> None:
        self.name, self.config, self.shared, self.player, self.completed = name, config, shared, player, completed

    async def run(self, task: Any, **others: Any) -> Any:
        """The trace of a run on the task's prompt."""
        async with self.interaction(task, **others) as exchange:
            await exchange.turn()
            if exchange.trace.stop_condition is None:
                exchange.trace.stop("agent_completed")
        return exchange.trace

    @asynccontextmanager
    async def interaction(self, task: Any, *, on_trace: Any = None, **others: Any) -> AsyncIterator[Interaction]:
        """A run that the caller leads turn by turn; finished and scored in the end."""
        from verifiers.v1.runtimes import SubprocessConfig, provision_runtime
        from verifiers.v1.state import state_cls
        from verifiers.v1.trace import AgentInfo, Trace, TraceTask
        from verifiers.v1.utils.decorators import invoke

        if lacking := [key for key, value in others.items() if value]:
            raise WorldError(f"its program asks for {', '.join(lacking)} of a run, which is not supported")
        about = TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
        trace: Any = Trace(
            task=about, state=state_cls(type(task))(), agent=AgentInfo(config=self.config, name=self.name)
        )
        if on_trace is not None:
            on_trace(trace)
        async with AsyncExitStack() as stack:
            env = dict(task.runtime_env())
            runtime = await stack.enter_async_context(provision_runtime(SubprocessConfig(), trace.id, env))
            await invoke(task.setup, {"trace": trace, "runtime": runtime})
            tools = await served([*task.toolsets(task.config)], task, trace, stack)
            tools |= {name: tool for one in self.shared for name, tool in (await offered(one, trace)).items()}
            exchange = Interaction(task, trace, self.player, tools, self.config.max_turns)
            yield exchange
            trace.stop("user_closed")
            await invoke(task.finalize, {"trace": trace, "runtime": runtime})
            await task.score(trace, runtime)
            trace.ok = True
        self.completed.append(trace)


class Interaction:
    """A run, as far as `Env.run` uses verifiers' `Interaction`: `turn` and `trace`."""

    def __init__(
        self, task: Any, trace: Any, player: Player, tools: dict[str, ServedTool], max_turns: int | None
    ) -> None:
        from verifiers.v1.session import hook_boundary
        from verifiers.v1.trace import Trace
        from verifiers.v1.utils.decorators import discover_decorated

        self.trace, self.player, self.tools, self.max_turns = trace, player, tools, max_turns
        self.stops = [fn for fn in task.hooks("stop") if hook_boundary(fn, allow_trace=True) is Trace]
        if len(self.stops) < len(task.hooks("stop")) or discover_decorated(task, "intercept"):
            raise WorldError(
                "its task reads or changes requests (@intercept, or @stop on them), which is not supported"
            )
        self.messages: list[Any] = []
        self.opening = list[Any]() if task.data.prompt is None else _messages(task.data.prompt)
        self.system = task.data.system_prompt
        self.over = False

    async def turn(self, message: Any = None) -> Any:
        """A turn of the user, or the task's prompt, and all that is said and done until a reply calls no tool."""
        from verifiers.v1.agent import Segment
        from verifiers.v1.types import AssistantMessage, SystemMessage, ToolMessage

        if self.over:
            raise RuntimeError("the exchange is over (the run ended); read interaction.trace")
        if (message is None) != bool(self.opening):
            raise ValueError("a prompted task is opened by turn() without a message, and each other turn has one")
        if not self.messages and self.system:
            self.messages.append(SystemMessage(content=self.system))
        self.messages += self.opening if message is None else _messages(message)
        self.opening, said = [], list[Any]()
        while not await self._stopped():
            reply = await self.player(Asked(self.messages, [one.about for one in self.tools.values()]))
            if reply is None:
                self.trace.stop("max_turns")
                break
            _record(self.trace, self.messages, reply)
            self.messages.append(reply)
            said.append(reply)
            for call in reply.tool_calls or ():
                text = await self.tools[call.name].call(call.arguments)
                said.append(ToolMessage(tool_call_id=call.id, content=text, name=call.name))
                self.messages.append(said[-1])
            if not reply.tool_calls:
                break
        self.over = not any(isinstance(one, AssistantMessage) for one in said)
        return Segment(messages=said, terminated=self.over)

    async def _stopped(self) -> bool:
        """Whether no more turn is served, which verifiers asks before each."""
        from verifiers.v1.session import call_hook
        from verifiers.v1.trace import Trace

        if self.trace.stop_condition is None and self.max_turns is not None and self.trace.num_turns >= self.max_turns:
            self.trace.stop("max_turns")
        for stop in self.stops:
            if self.trace.stop_condition is None and await call_hook(stop, {Trace: self.trace}):
                self.trace.stop(stop.__name__)
        return self.trace.stop_condition is not None


class ServedTool(NamedTuple):
    """A tool of a toolset."""

    about: Tool
    call: Callable[[str], Awaitable[str]]
    """Its result as text, of arguments as JSON."""


async def served(toolsets: list[Any], task: Any, trace: Any, stack: AsyncExitStack) -> dict[str, ServedTool]:
    """The tools of toolsets that are set up for a task."""
    tools = dict[str, ServedTool]()
    for one in toolsets:
        if one.config.url or one.config.runtime.type != "subprocess":
            raise WorldError(f"its toolset {one.server_name} is served elsewhere, which is not supported")
        await stack.enter_async_context(one._exit_stack)
        await one.setup()
        await one.setup_task(task.data)
        tools |= await offered(one, trace)
    return tools


async def offered(toolset: Any, trace: Any) -> dict[str, ServedTool]:
    """The tools of a toolset by name. What they keep in the state of a run is that of the trace."""
    import json

    from mcp.server.mcpserver import MCPServer

    async def pulled() -> Any:
        return trace.state

    async def pushed(before: bytes) -> None:
        """It is the trace's own already."""

    toolset._pull_state, toolset._push_state = pulled, pushed
    server = MCPServer(toolset.server_name or type(toolset).__name__, log_level="ERROR")
    toolset.register(server)

    def asked(name: str) -> Callable[[str], Awaitable[str]]:
        async def call(arguments: str) -> str:
            try:
                return shown(await server.call_tool(name, json.loads(arguments))).text
            except Exception as error:  # as its server would answer
                return f"Error: {error}"

        return call

    prefix = f"{toolset.server_name}_" if toolset.server_name else ""
    listed = [(one.name, tool_of(one)) for one in await server.list_tools()]
    about = sound([{**tool, "function": {**tool["function"], "name": prefix + name}} for name, tool in listed])
    return {
        tool["function"]["name"]: ServedTool(tool, asked(name)) for (name, _), tool in zip(listed, about, strict=True)
    }


def _messages(said: Any) -> list[Any]:
    from verifiers.v1.dialects import parse_message
    from verifiers.v1.types import UserMessage

    if isinstance(said, str):
        return [UserMessage(content=said)]
    return [parse_message(one) if isinstance(one, dict) else one for one in said]


def _record(trace: Any, messages: list[Any], reply: Any) -> None:
    from verifiers.v1.graph import prepare_turn
    from verifiers.v1.types import Response

    reason = "tool_calls" if reply.tool_calls else "stop"
    said = Response(id="", created=0, model="", message=reply, finish_reason=reason)
    prepare_turn(trace, list(messages)).commit(said)

"""A session with an MCP server, in plain calls that end by themselves. The package `mcp` is asyncio; its loop has a thread."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pilotrl.envs import whole
from pilotrl.envs.tools import Tool
from pilotrl.store.redact import in_one_line
from pilotrl.types import UserError, WorldError

MOST_TOOLS, LONGEST_LIST = 128, 100_000
"""Tools of a server, and characters of their names, descriptions and schemas as JSON."""
GRACE = 10.0
"""Seconds beyond a deadline until the loop itself is taken to hang. A server that does not end is killed after some 6."""
LOOP = threading.Lock()

logging.getLogger("mcp").setLevel(logging.CRITICAL)  # it logs what a server sends


class Server(NamedTuple):
    """How a server is reached: by a command that starts one, with variables of the environment, or by the address of one."""

    command: Sequence[str]
    variables: dict[str, str]
    url: str


class Result(NamedTuple):
    """What a call of a tool gave. failed: the tool says so."""

    text: str
    failed: bool


class Session:
    """A session, and the process and the folder of a server that was started for it.

    Raises WorldError where the server fails, does not answer in time, or offers what are no tools; it is closed then."""

    def __init__(self, server: Server, start_timeout: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pilotrl-mcp-")) if server.command else None
        self.said = tempfile.TemporaryFile("w+", errors="replace")  # the server's stderr  # noqa: SIM115
        self.name = server.url or " ".join(server.command)
        self.stop, self.ready = asyncio.Event(), Future[list[Tool]]()
        self.client = _client(server, self.folder, self.said)
        self.over = _submit(self._run(start_timeout))
        try:
            self.tools = self.ready.result(start_timeout + GRACE)
        except Exception as error:
            raise self._failed(error) from None

    def call(self, name: str, arguments: dict[str, Any], timeout: float) -> Result:
        """Call a tool. Raises WorldError where the server fails or does not answer in time."""
        from mcp import MCPError
        from mcp.types import INVALID_PARAMS

        async def asked() -> Any:
            async with asyncio.timeout(timeout):
                return await self.client.call_tool(name, arguments)

        future = _submit(asked())
        try:
            return shown(future.result(timeout + GRACE))
        except MCPError as error:
            if error.code == INVALID_PARAMS:  # what the model can mend
                return Result(whole(f"Error: {error}"), True)
            raise self._failed(error) from None
        except Exception as error:
            future.cancel()
            raise self._failed(error) from None

    def close(self) -> None:
        """End the session, and the server if it was started for it. What was closed stays so."""
        _loop().call_soon_threadsafe(self.stop.set)
        with suppress(Exception):
            self.over.result(GRACE)
        self.over.cancel()
        self.said.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def _run(self, start_timeout: float) -> None:
        """The whole session: its streams have to be opened and closed by one task."""
        import anyio

        try:
            with anyio.fail_after(start_timeout) as deadline:
                async with self.client:
                    tools = await self._listed()
                    deadline.deadline = math.inf
                    self.ready.set_result(tools)
                    await self.stop.wait()
        except BaseException as error:
            if not self.ready.done():
                self.ready.set_exception(_first(error))
            if not isinstance(error, Exception):
                raise

    async def _listed(self) -> list[Tool]:
        found, cursor = list[Any](), None
        while len(found) <= MOST_TOOLS:
            page = await self.client.list_tools(cursor=cursor)
            found, cursor = found + page.tools, page.next_cursor
            if cursor is None:
                break
        return sound([tool_of(one) for one in found])

    def _failed(self, error: BaseException) -> WorldError:
        """The error, with the last line that the server wrote, of a session that is closed now."""
        what = (
            "gave no answer in time" if isinstance(error, TimeoutError) else in_one_line(error) or type(error).__name__
        )
        with suppress(OSError, ValueError):
            self.said.seek(max(self.said.seek(0, 2) - 2000, 0))
            lines = self.said.read().strip().splitlines()
            what += f"; its last line: {in_one_line(lines[-1])}" if lines else ""
        self.close()
        return WorldError(f"{in_one_line(self.name)}: {what}")


def needed() -> None:
    """Raises UserError where the package is not installed, or is another version."""
    try:
        from mcp import Client  # noqa: F401
    except ImportError as error:
        raise UserError(f"env=mcp: its package cannot be imported ({error}); pip install 'pilotrl[mcp]'") from error


def _client(server: Server, folder: Path | None, errors: Any) -> Any:
    from mcp import Client, StdioServerParameters, stdio_client

    if not server.command:
        return Client(server.url)
    command, *words = [word.replace("{folder}", str(folder)) for word in server.command]
    started = StdioServerParameters(
        command=command, args=words, env=server.variables, cwd=None, encoding_error_handler="replace"
    )
    return Client(stdio_client(started, errlog=errors))


def tool_of(one: Any) -> Tool:
    about = {"name": one.name, "description": whole(one.description or ""), "parameters": one.input_schema}
    return {"type": "function", "function": about}


def sound(tools: list[Tool]) -> list[Tool]:
    """Raises WorldError for a list that no model could be shown, and schemas that are none."""
    try:
        listed = [json.dumps(tool["function"]["parameters"]) for tool in tools]
        size = sum(map(len, listed)) + sum(len(tool["function"]["description"]) for tool in tools)
    except (RecursionError, ValueError):
        raise WorldError("its tools have schemas that are nested too deeply") from None
    if not 0 < len(tools) <= MOST_TOOLS or size > LONGEST_LIST:
        raise WorldError(
            f"it has {len(tools)} tools with {size} characters of schemas and descriptions; PilotRL takes 1 to {MOST_TOOLS} "
            f"tools with at most {LONGEST_LIST}"
        )
    names = [tool["function"]["name"] for tool in tools]
    for name, schema in zip(names, listed, strict=True):
        if not re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII) or names.count(name) > 1:
            raise WorldError(
                f"it has a tool {name}; a name has 1 to 64 of letters, digits, _ - . and is that of one tool"
            )
        if wrong := _wrong(schema):
            raise WorldError(f"its tool {name} has a schema that is none ({wrong})")
    return tools


@lru_cache(maxsize=MOST_TOOLS)
def _wrong(schema: str) -> str:
    """What is wrong with the JSON schema of a tool's arguments; empty if nothing is."""
    import jsonschema

    held = json.loads(schema)
    try:
        jsonschema.Draft202012Validator.check_schema(held)
    except jsonschema.SchemaError as error:
        return in_one_line(error.message)
    except RecursionError:
        return "nested too deeply"
    return "" if held.get("type") == "object" else "its type is not object"


def shown(result: Any) -> Result:
    """A result as text; pictures and the like are named."""
    parts = [_part(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = whole("\n".join(parts)).strip() or "(no text)"
    if result.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return Result(text, bool(result.is_error))


def _part(block: Any) -> str:
    held = getattr(block, "resource", block)
    if isinstance(text := getattr(held, "text", None), str):
        return text
    about = [getattr(held, "uri", None), getattr(held, "mime_type", None)]
    return f"[{', '.join(str(one) for one in (block.type, *about) if one)}]"


def _first(error: BaseException) -> BaseException:
    """The error itself, of a group its first one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@lru_cache(maxsize=1)
def _started() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="mcp", daemon=True).start()
    return loop


def _loop() -> asyncio.AbstractEventLoop:
    """The loop of all sessions of this process."""
    with LOOP:
        return _started()


def _submit(work: Coroutine[Any, Any, Any]) -> Future[Any]:
    return asyncio.run_coroutine_threadsafe(work, _loop())

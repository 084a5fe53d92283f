"""An MCP server of its own process: `python mcp_server.py` over stdio, `python mcp_server.py PORT` over HTTP."""

from __future__ import annotations

import os
import sys
import time

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("desk")
kept: list[str] = []


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def keep(note: str) -> str:
    """Keeps a note, and says all that are kept."""
    kept.append(note)
    return ", ".join(kept)


@server.tool()
def write(path: str, text: str) -> str:
    """Writes a file."""
    with open(path, "w") as file:
        file.write(text)
    return "written"


@server.tool()
def fail(why: str) -> str:
    """Fails."""
    raise ToolError(why)


@server.tool()
def die() -> str:
    """Ends the server."""
    print("out of paper", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def wait(seconds: float) -> str:
    """Waits."""
    time.sleep(seconds)  # which fails below 0
    return "waited"


@server.tool()
def say(text: str, times: int = 1) -> str:
    """Says a text."""
    return text * times


@server.tool()
def draw() -> Image:
    """Draws."""
    return Image(data=b"\x89PNG", format="png")


if __name__ == "__main__":
    if sys.argv[1:]:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()

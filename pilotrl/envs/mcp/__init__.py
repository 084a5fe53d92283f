"""The tools of any MCP server as an environment. A file has the tasks; an answer, or a function of the user's, scores them."""

from pilotrl.envs.mcp.env import Attempt, Mcp
from pilotrl.envs.mcp.tasks import McpTask

__all__ = ["Attempt", "Mcp", "McpTask"]

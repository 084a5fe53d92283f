"""A taskset of verifiers with tools, and a state that they share with its reward; one reply without a call ends a task."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf
from pydantic import Field

__all__ = ["SumsTaskset"]


class Noted(vf.State):
    sums: list[int] = Field(default_factory=list)


class SumTask(vf.Task[vf.TaskData, Noted]):
    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        trace.state.sums.append(0)

    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [Desk(vf.ToolsetConfig())]

    @vf.reward
    async def right(self, task: vf.TaskData, trace: vf.Trace) -> float:
        """The last sum is that of the task, and was said."""
        return float(trace.state.sums[-1] == int(task.name or "0") and trace.last_reply == task.name)


class Desk(vf.Toolset[vf.ToolsetConfig, Noted]):
    TOOL_PREFIX = "desk"

    async def setup_task(self, task: vf.TaskData) -> None:
        self.name = task.name

    @vf.tool
    def add(self, a: int, b: int) -> int:
        """Adds two numbers."""
        self.state.sums.append(a + b)
        return a + b

    @vf.tool
    def about(self) -> str:
        """Says what the task is called, and how many sums there are."""
        return f"{self.name}, {len(self.state.sums)}"

    @vf.tool
    def fail(self, why: str) -> str:
        """Fails."""
        raise ValueError(why)


class SumsTaskset(vf.Taskset[SumTask, vf.TasksetConfig]):
    def load(self) -> Iterator[SumTask]:
        for i in range(20):
            yield SumTask(vf.TaskData(prompt=f"What is {i} and {i + 1}?", name=str(2 * i + 1)), self.config.task)

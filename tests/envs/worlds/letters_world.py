"""Tasksets of verifiers in its own classes, as a package on PyPI or its hub would have them: name the hidden letter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf

__all__ = ["LettersEnv", "LettersTaskset"]


class LettersConfig(vf.TasksetConfig):
    letters: str = "abcdefghijklmnopqrstuvwxyz"
    split: str = "train"
    pen: bool = True
    end: bool = True
    """Whether the taskset has one."""


class Letter(vf.TaskData):
    letter: str
    pen: bool


class LetterTask(vf.Task[Letter]):
    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        if not self.data.pen:
            raise OSError("no pen")

    @vf.stop
    async def gave_up(self, trace: vf.Trace) -> bool:
        return "give up" in trace.last_reply

    @vf.reward(weight=0.75)
    async def found(self, task: Letter, trace: vf.Trace) -> Any:
        odd = {"none": None, "nan": float("nan")}
        return odd.get(trace.last_reply, float(trace.last_reply == task.letter))

    @vf.reward(weight=0.25)
    async def fast(self, task: Letter, trace: vf.Trace, runtime: vf.Runtime) -> float:
        said = await runtime.run(["echo", str(trace.num_turns)], {})
        return float(int(said.stdout) == 1 and trace.last_reply == task.letter)

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)


class LettersTaskset(vf.Taskset[LetterTask, LettersConfig]):
    INFINITE = True

    @property
    def bounded(self) -> bool:
        return self.config.end

    def load(self) -> Iterator[LetterTask]:
        while True:
            for letter in self.config.letters:
                prompt = f"Which letter is it, of {self.config.split}?"
                data = Letter(prompt=prompt, system_prompt="Guess.", letter=letter, pen=self.config.pen)
                yield LetterTask(data, self.config.task)
            if self.config.end:
                return


class LettersEnvConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class LettersEnv(vf.Env[LettersEnvConfig]):
    """Answers each guess, as a game of TextArena does."""

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated and (guess := segment.last_reply) != task.data.letter:
                if guess in ("none", "nan"):
                    break
                if guess == "fail":
                    raise ValueError("no\npaper")
                if guess == "wait":
                    await asyncio.sleep(600)
                if guess == "two":
                    await asyncio.gather(agents.player.run(task), agents.player.run(task))
                if guess == "again":
                    await agents.player.run(task)
                    break
                segment = await interaction.turn("Earlier. <|end|>" if guess > task.data.letter else "Later.")

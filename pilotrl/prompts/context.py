"""The context: builds the prompt of a call, as token ids, from an episode's history, in a chat format (`chat.py`).

Whether one prompt continues another is decided on tokens, in training/batch.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pilotrl import prompts as words
from pilotrl.prompts.chat import Content, Speaker, Writer
from pilotrl.prompts.parsing import number
from pilotrl.types import Plan


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the history: an observation of the environment, a prompt (ask), or a reply (plan, action)."""

    kind: Literal["observation", "ask", "plan", "action"]
    content: Content
    results: tuple[str, ...] = ()
    """Of an observation that is a tool's, or several tools': each is a message."""

    def shortened(self, text: str) -> Entry:
        """This observation, if `text` takes the place of its own."""
        return Entry(self.kind, text, (text,) * len(self.results))


class Context:
    """One episode's history, from which prompts are built in one of two layouts.

    `append`: everything in order; old plans stay. `current`: observations and actions, then the plan that is given.
    """

    def __init__(self, chat: Writer, prompts: dict[str, str], layout: str, window: int | None) -> None:
        self.chat, self.prompts, self.layout, self.window = chat, prompts, layout, window
        self.system, self.tools, self.entries = prompts.get("system"), "", list[Entry]()

    def introduce(self, system: str, tools: Sequence[Mapping[str, Any]]) -> None:
        """Add the environment's part of the system prompt, and the tools that the model may call, there or in the template."""
        listed = ""
        if tools and self.chat.shows_tools:
            self.tools = self.chat.uncontrolled(json.dumps(tools, ensure_ascii=False))
        elif tools:
            lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
            listed = words.load("tools")["system"].format(tools=lines)
        self.system = "\n\n".join(text for text in (self.system, system, listed) if text)

    def observe(self, text: str, results: Sequence[str] = ()) -> None:
        self.entries.append(Entry("observation", text, tuple(results) if results and self.chat.has_tool_role else ()))

    def prompt(self, ask: str, plan: Plan) -> list[int]:
        """Token ids of a prompt: the history in this layout, the plan if the history lacks it, and the request `ask`."""
        entries = self._windowed()
        if self.layout == "current":
            entries = [entry for entry in entries if entry.kind in ("observation", "action")]
            if plan:
                entries.append(Entry("ask", self.prompts["plan_in_force"].format(plan=number(plan))))
        return self.chat.render(self._messages([*entries, Entry("ask", ask)]), self.tools)

    def replied(self, ask: str, kind: Literal["plan", "action"], reply: Content) -> None:
        """Record a reply: ids as sampled, less the end token, which the template adds again; or a teacher's or expert's text."""
        ended = not isinstance(reply, str) and reply and reply[-1] == self.chat.end
        self.entries += [Entry("ask", ask), Entry(kind, reply[:-1] if ended else reply)]

    def _windowed(self) -> list[Entry]:
        if self.window is None:
            return list(self.entries)
        seen = [i for i, entry in enumerate(self.entries) if entry.kind == "observation"]
        old = set(seen[1 : -self.window])  # the first one holds the instruction
        short = self.prompts["left_out"]
        return [entry.shortened(short) if i in old else entry for i, entry in enumerate(self.entries)]

    def _messages(self, entries: list[Entry]) -> list[tuple[Speaker, Content]]:
        messages: list[tuple[Speaker, Content]] = [] if self.system is None else [("system", self.system)]
        for entry in (entry for entry in entries if entry.content or entry.kind != "ask"):
            if entry.kind in ("plan", "action"):
                messages.append(("assistant", entry.content))
            elif entry.results:
                messages += [("tool", result) for result in entry.results]
            elif messages and messages[-1][0] == "user":
                messages[-1] = ("user", f"{messages[-1][1]}\n{entry.content}")
            else:
                messages.append(("user", entry.content))
        return messages

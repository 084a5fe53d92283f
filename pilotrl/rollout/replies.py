"""In which form an executor replies (`agent.replies`), in an environment: from a reply to its action, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pilotrl.envs import Info
from pilotrl.envs.tools import ACT, Tool, ToolCall, calls, checked, parsed, written
from pilotrl.prompts.parsing import parse_action
from pilotrl.prompts.replies import tagged_action, tool_calls
from pilotrl.types import NotUnderstood, Turn, UserError

CUT = "the reply was cut off before its action was over"
NO_LINE = "the reply is not one line, Action: ..."


class ReplyForm(Protocol):
    """A form of replies in one environment."""

    @property
    def offered(self) -> Sequence[Tool]:
        """The tools that the model may call."""
        ...

    def read(self, text: str, cut: bool) -> tuple[str, str]:
        """The action of a reply, and why there is none: empty if there is one. `cut`: by the limit of tokens."""
        ...

    def written(self, action: str, thought: str) -> list[str]:
        """A reply with this action, for demonstrations: text, markup, text, ... `thought` counts where the agent thinks."""
        ...

    def answer(self, turn: Turn, info: Info) -> tuple[str, Sequence[str]]:
        """Note in a turn what the model is told; returns that, and the results of tools, each of which is a message."""
        ...


@dataclass(frozen=True)
class Line:
    """One line. Any other reply goes to the environment as it stands, which says what it makes of it."""

    name: str
    thinks: bool
    tools: Sequence[Tool]
    """The environment's own."""
    offered: Sequence[Tool] = ()

    def read(self, text: str, cut: bool) -> tuple[str, str]:
        action = parse_action(text, self.thinks)
        return (text.strip(), CUT if cut else NO_LINE) if action is None else (action, "")

    def written(self, action: str, thought: str) -> list[str]:
        return [f"Thought: {thought}\nAction: {action}" if self.thinks else f"Action: {action}"]

    def answer(self, turn: Turn, info: Info) -> tuple[str, Sequence[str]]:
        return turn.observation, ()


@dataclass(frozen=True)
class Marked:
    """An action between marks. An action that cannot be read is the empty one, and the model is told why."""

    name: str
    thinks: bool
    tools: Sequence[Tool]
    """The environment's own; empty for one that is played by text."""

    @property
    def called(self) -> bool:
        """Whether an action is a call of a tool."""
        return self.name == "tool_call"

    @property
    def offered(self) -> Sequence[Tool]:
        return (self.tools or (ACT,)) if self.called else ()

    def read(self, text: str, cut: bool) -> tuple[str, str]:
        try:
            return self._action(text) if self.called else tagged_action(text), ""
        except NotUnderstood as error:
            return "", CUT if cut else str(error)

    def _action(self, text: str) -> str:
        asked = checked([parsed(call) for call in tool_calls(text)], self.offered)
        if self.tools:
            return written(asked)
        if len(asked) > 1:
            raise NotUnderstood("there is more than one call; act is called once a reply")
        return str(asked[0].arguments["action"])

    def written(self, action: str, thought: str) -> list[str]:
        """Raises UserError for an action of an environment with tools that is no call of them."""
        before = f"{thought}\n" if self.thinks else ""
        if not self.called:
            return [before, "<action>", action, "</action>"]
        try:
            asked = calls(action, self.tools) if self.tools else [ToolCall("act", {"action": action})]
        except NotUnderstood as error:
            raise UserError(f"env: its expert's action {action[:60]!r} is no call of its tools ({error})") from error
        said = [part for call in asked for part in ("\n<tool_call>\n", written([call]), "\n</tool_call>", "")]
        return [before, said[0].lstrip(), *said[1:-1]]

    def answer(self, turn: Turn, info: Info) -> tuple[str, Sequence[str]]:
        if turn.unread:
            turn.observation = f"Not understood: {turn.unread}.\n{turn.observation}"
            return turn.observation, ()
        results = tuple(info.get("results", (turn.observation,)))
        turn.results = results if self.tools else ()
        return turn.observation, results if self.called else ()


OF: dict[str, type[Line] | type[Marked]] = {"line": Line, "tagged": Marked, "tool_call": Marked}
"""By the value of `agent.replies`."""

"""A scripted engine that replies by a function of the prompt's text: for tests, and for debugging an environment."""

from __future__ import annotations

from collections.abc import Callable

from pilotrl.prompts.chat import Chat
from pilotrl.types import Reply, Request


class ScriptedPolicy:
    """Replies `script(prompt_text)`, tokenized once, with log-probability 0; cut at the request's token limit."""

    def __init__(self, chat: Chat, script: Callable[[str], str], slots: int = 64) -> None:
        self.chat, self.script, self.slots = chat, script, slots
        self.waiting: list[Request] = []

    def submit(self, request: Request) -> None:
        self.waiting.append(request)

    def step(self) -> list[Reply]:
        waiting, self.waiting = self.waiting, []
        return [self._reply(request) for request in waiting]

    def release(self, session: tuple[int, int]) -> None:
        """Does nothing: no cache is kept."""

    def take(self, version: int) -> None:
        """Does nothing: there are no weights."""

    def rest(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def _reply(self, request: Request) -> Reply:
        ids = self.chat.reply(self.script(self.chat.decode(request.prompt)))
        cut = ids[: request.max_tokens]
        return Reply(request.session, cut, [0.0] * len(cut), "end" if cut == ids else "length")

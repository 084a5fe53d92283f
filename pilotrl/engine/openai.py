"""A model behind an OpenAI-compatible address plays: it is sent messages, and what it says is text. It cannot be trained.

Nobody here knows its tokens. So a whole message is one token of a context, and a reply is as many as the server counts: its
text is the first of them. A call without an answer raises WorldError where it is read, so its episode is played anew, and
in the end is broken: never a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, fields

from pilotrl.endpoint import Address, Endpoint, Question
from pilotrl.prompts.context import Content, Speaker
from pilotrl.types import Reply, Request, UserError, WorldError

LOST = -1
"""The token of a reply that never came."""
MORE = -2
"""Each token of a reply but the first."""


@dataclass(frozen=True, kw_only=True)
class OpenAiModel(Address):
    """Who plays. The panel decides on the temperature, so that none is given here.

    Raises UserError for an address that cannot be, and for a key that is not in the environment.
    """

    decoding: bool
    """Temperature and top-p of the panel are sent; false for a model that wants neither."""

    def __post_init__(self) -> None:
        if self.temperature is not None:
            raise UserError(
                f"temperature={self.temperature}: the panel has one; leave it null, and use panel.temperature"
            )
        self.endpoints()

    def endpoints(self) -> list[Endpoint]:
        """Whom it asks."""
        return [Endpoint.shared(self)]

    def decoded(self, temperature: float, top_p: float) -> Endpoint:
        """Whom it asks for replies that are sampled so."""
        sampling = {"temperature": temperature, "body": {**self.body, "top_p": top_p}} if self.decoding else {}
        own = {part.name: getattr(self, part.name) for part in fields(Address)}
        return Endpoint.shared(Address(**own | sampling))


class Transcript:
    """A chat format for whom takes messages; see the module. One for all contexts of a panel."""

    end = MORE  # the context leaves out the last token of a reply: its text is the first one

    def __init__(self) -> None:
        self.known: dict[tuple[Speaker, str], int] = {}
        self.said: list[tuple[Speaker, str]] = []

    def token(self, speaker: Speaker, text: str) -> int:
        """The token that stands for this message."""
        if (speaker, text) not in self.known:
            self.known[speaker, text] = len(self.said)
            self.said.append((speaker, text))
        return self.known[speaker, text]

    def render(self, messages: Sequence[tuple[Speaker, Content]]) -> list[int]:
        """The messages of a conversation up to the next reply."""
        return [self.token(who, what if isinstance(what, str) else self.decode(what)) for who, what in messages]

    def reply(self, text: str) -> list[int]:
        """A reply that somebody else wrote."""
        return [self.token("assistant", text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply, without thinking. Raises WorldError where it never came."""
        if ids[0] == LOST:
            raise WorldError("the model gave no answer")
        return self.said[ids[0]][1].rpartition("</think>")[2].strip()

    def messages(self, prompt: Sequence[int]) -> tuple[tuple[str, str], ...]:
        """What is sent."""
        return tuple(self.said[token] for token in prompt)


class OpenAiEngine:
    """Asks the endpoint; as many episodes side by side as it may be asked questions."""

    def __init__(self, model: OpenAiModel, chat: Transcript) -> None:
        self.model, self.chat, self.slots = model, chat, model.concurrency
        self.waiting: dict[Future[str | None], tuple[Request, Endpoint, Question]] = {}
        self.before: dict[Endpoint, dict[str, float]] = {}

    def submit(self, request: Request) -> None:
        """Seeds tell apart the samples of one question, in the cache too; the server is not told."""
        end = self.model.decoded(request.temperature, request.top_p)
        self.before.setdefault(end, end.spent())
        question = Question(self.chat.messages(request.prompt), sample=request.seed)
        self.waiting[end.ask(question, str)] = request, end, question

    def step(self) -> list[Reply]:
        """What has come, once something has."""
        done, _ = wait(self.waiting, return_when=FIRST_COMPLETED)
        return [self._reply(future, *self.waiting.pop(future)) for future in [*self.waiting] if future in done]

    def release(self, session: tuple[int, int]) -> None:
        """Nothing is kept of it; who is no longer waited for is not listened to."""
        self.waiting = {future: asked for future, asked in self.waiting.items() if asked[0].session != session}

    def spent(self) -> dict[str, float]:
        """What was asked of the endpoints by this engine, and what it cost."""
        total = Counter[str]()
        for end, before in self.before.items():
            total.update({name: value - before[name] for name, value in end.spent().items()})
        return dict(total)

    def _reply(self, future: Future[str | None], request: Request, end: Endpoint, question: Question) -> Reply:
        if (text := future.result()) is None:
            return Reply(request.session, [LOST], [], "length")
        ids = [self.chat.token("assistant", text), *[MORE] * (end.tokens(question) - 1)]
        return Reply(request.session, ids, [], "end")

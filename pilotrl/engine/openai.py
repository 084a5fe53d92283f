"""The engine for an API model, behind an OpenAI-compatible endpoint: it gets messages and returns text. Evaluation only.

The model's tokenizer is unknown here. So a whole message is one token of the context, and a reply has as many tokens as the
server counts, the first of which stands for its text. Decoding a reply that never came raises WorldError: the episode is run
again, and in the end is broken, which is never counted as a score of 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, fields

from pilotrl.endpoint import Endpoint, Question
from pilotrl.endpoint.address import Address
from pilotrl.prompts.chat import Content, Speaker
from pilotrl.types import Reply, Request, UserError, WorldError

NO_REPLY = -1
"""The token of a reply that never came."""
FILLER = -2
"""Each token of a reply but the first."""


@dataclass(frozen=True, kw_only=True)
class OpenAiModel(Address):
    """Settings of the API model that acts. The evaluation protocol sets the temperature, so none is given here.

    Raises UserError for an invalid address, and for an API key that is not in the process's environment.
    """

    decoding: bool
    """Send the temperature and top-p of the evaluation protocol; false for a model that accepts neither."""

    def __post_init__(self) -> None:
        if self.temperature is not None:
            raise UserError(
                f"temperature={self.temperature}: the evaluation set has one; leave it null, and use panel.temperature"
            )
        self.endpoints()

    def endpoints(self) -> list[Endpoint]:
        """The endpoints it uses, which are probed before a run."""
        return [Endpoint.shared(self)]

    def decoded(self, temperature: float, top_p: float) -> Endpoint:
        """The endpoint for replies with these sampling parameters."""
        sampling = {"temperature": temperature, "body": {**self.body, "top_p": top_p}} if self.decoding else {}
        own = {part.name: getattr(self, part.name) for part in fields(Address)}
        return Endpoint.shared(Address(**own | sampling))


class Transcript:
    """A chat format for APIs that take messages (see the module's docstring). One for all contexts of an evaluation."""

    end = FILLER  # the context drops this closing token of a reply: the first one stands for the text
    shows_tools, has_tool_role = False, False  # tools are in the system prompt, and what they give is a user's message

    def __init__(self) -> None:
        self.token_of: dict[tuple[Speaker, str], int] = {}
        self.message_of: list[tuple[Speaker, str]] = []

    def token(self, speaker: Speaker, text: str) -> int:
        """The token that stands for this message."""
        if (speaker, text) not in self.token_of:
            self.token_of[speaker, text] = len(self.message_of)
            self.message_of.append((speaker, text))
        return self.token_of[speaker, text]

    def uncontrolled(self, tools: str) -> str:
        return tools

    def render(self, messages: Sequence[tuple[Speaker, Content]], tools: str = "") -> list[int]:
        """The tokens of a conversation, one a message, up to the next reply."""
        return [self.token(who, what if isinstance(what, str) else self.decode(what)) for who, what in messages]

    def reply(self, *pieces: str) -> list[int]:
        """The token of a reply that this model did not write, such as a teacher's plan."""
        return [self.token("assistant", "".join(pieces))]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply, without its thinking. Raises WorldError if the reply never came."""
        if ids[0] == NO_REPLY:
            raise WorldError("the model gave no answer")
        return self.message_of[ids[0]][1].rpartition("</think>")[2].strip()

    def messages(self, prompt: Sequence[int]) -> tuple[tuple[str, str], ...]:
        """The messages that a prompt stands for, as (speaker, text)."""
        return tuple(self.message_of[token] for token in prompt)


class OpenAiEngine:
    """Sends requests to the endpoint; as many episodes are live as requests may be under way."""

    def __init__(self, model: OpenAiModel, chat: Transcript) -> None:
        self.model, self.chat, self.slots = model, chat, model.concurrency
        self.waiting: dict[Future[str | None], tuple[Request, Endpoint, Question]] = {}
        self.before: dict[Endpoint, dict[str, float]] = {}

    def submit(self, request: Request) -> None:
        """The request's seed only tells samples of one prompt apart, in the cache too; it is not sent."""
        end = self.model.decoded(request.temperature, request.top_p)
        self.before.setdefault(end, end.spent())
        question = Question(self.chat.messages(request.prompt), sample=request.seed)
        self.waiting[end.ask(question, str)] = request, end, question

    def step(self) -> list[Reply]:
        """Wait until at least one reply has arrived; returns all that have."""
        done, _ = wait(self.waiting, return_when=FIRST_COMPLETED)
        return [self._reply(future, *self.waiting.pop(future)) for future in [*self.waiting] if future in done]

    def release(self, session: tuple[int, int]) -> None:
        """Drop the session's requests: their replies are ignored."""
        self.waiting = {future: sent for future, sent in self.waiting.items() if sent[0].session != session}

    def take(self, version: int) -> None:
        """Does nothing: the weights are elsewhere, and do not learn."""

    def rest(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing: endpoints are shared."""

    def spent(self) -> dict[str, float]:
        """Counts of this engine's requests and tokens, and their cost."""
        total = Counter[str]()
        for end, before in self.before.items():
            total.update({name: value - before[name] for name, value in end.spent().items()})
        return dict(total)

    def _reply(self, future: Future[str | None], request: Request, end: Endpoint, question: Question) -> Reply:
        if (text := future.result()) is None:
            return Reply(request.session, [NO_REPLY], [], "length")
        ids = [self.chat.token("assistant", text), *[FILLER] * (end.tokens(question) - 1)]
        return Reply(request.session, ids, [], "end")

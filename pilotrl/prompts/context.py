"""The context: builds the prompt of a call, as token ids, from an episode's history and the model's own chat template.

What the model wrote is kept as ids and never tokenized again. Text from the environment is tokenized so that the name of a
control token in it stays text. The template is rendered once for each sequence of roles, with placeholders for contents,
so that it cannot change what was written, with one exception: if it drops the thinking of earlier replies, the ids before
the answer are left out. Whether one prompt continues another is decided on tokens, in training/batch.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, Protocol

from jinja2 import TemplateError

from pilotrl.prompts.parsing import number
from pilotrl.types import Plan, UserError

Speaker = Literal["system", "user", "assistant"]
Content = str | Sequence[int]
_THINKING = "<think>\n\ue000\n</think>\n\nv"
_PLACE = re.compile("\ue000(\\d+)\ue001")


class Writer(Protocol):
    """What makes tokens of messages: all that a `Context` needs of a chat format."""

    @property
    def end(self) -> int:
        """The token that ends a reply."""
        ...

    def render(self, messages: Sequence[tuple[Speaker, Content]]) -> list[int]: ...

    def reply(self, text: str) -> list[int]: ...


class Format(Writer, Protocol):
    """The protocol of a chat format; `Chat` is one for tokenizers, `Transcript` one for APIs."""

    def decode(self, ids: Sequence[int]) -> str: ...


class Chat:
    """A chat format: messages in, token ids out.

    `tokenizer` is a transformers tokenizer with a chat template, which takes the keywords.
    """

    def __init__(self, tokenizer: Any, **keywords: Any) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"model.path={tokenizer.name_or_path}: its tokenizer has no chat template; choose a chat model"
            )
        self.tokenizer, self.keywords = tokenizer, keywords
        added = tokenizer.added_tokens_decoder.items()
        self.thought = next((i for i, token in added if token.content == "</think>"), None)
        # Names that are tokens without being special: transformers finds those in any text.
        names = "|".join(re.escape(token.content) for _, token in added if not token.special and token.content.strip())
        self.names = re.compile(f"(?={names})" if names else "(?!)")
        self.forgets = "\ue000" not in self._template([("user", "u"), ("assistant", _THINKING), ("user", "u")], True)
        self.end = self._end_of_turn()
        self.scaffold = lru_cache(maxsize=4096)(self._scaffold)
        self.encode = lru_cache(maxsize=65536)(lambda text: self._encode(text.encode(errors="replace").decode()))

    def render(self, messages: Sequence[tuple[Speaker, Content]]) -> list[int]:
        """Ids of the conversation up to the start of the assistant's next reply."""
        ids: list[int] = []
        for piece in self.scaffold(tuple(speaker for speaker, _ in messages)):
            if isinstance(piece, int):
                content = messages[piece][1]
                ids += self.encode(content) if isinstance(content, str) else self._shown(content)
            else:
                ids += piece
        return ids

    def reply(self, text: str) -> list[int]:
        """Ids of a reply that the model did not write, with the token that ends it."""
        return [*self.encode(text), self.end]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a reply, without its thinking and the token that ends it: for parsing only, never trained on."""
        body = self._answer(ids[:-1] if ids and ids[-1] == self.end else ids)
        text: str = self.tokenizer.decode(list(body), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _shown(self, ids: Sequence[int]) -> Sequence[int]:
        """The part of an earlier reply that the template shows."""
        return self._answer(ids) if self.forgets else ids

    def _answer(self, ids: Sequence[int]) -> Sequence[int]:
        """A reply's ids after its thinking and the white space after that; all ids of a reply without thinking."""
        start = max((i + 1 for i, token in enumerate(ids) if token == self.thought), default=0)
        while 0 < start < len(ids) and not self.tokenizer.decode([ids[start]]).strip():
            start += 1
        return ids[start:]

    def _encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text in which names of control tokens stay text: they are cut in two, or split by the tokenizer."""
        cuts = [found.start() + 1 for found in self.names.finditer(text)]
        pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        encode = self.tokenizer.encode
        return tuple(i for piece in pieces for i in encode(piece, add_special_tokens=False, split_special_tokens=True))

    def _scaffold(self, speakers: tuple[Speaker, ...]) -> list[int | tuple[int, ...]]:
        """The rendered template with placeholders: tuples of ids, and between them the indices of messages."""
        text = self._template([(speaker, f"\ue000{i}\ue001") for i, speaker in enumerate(speakers)], True)
        pieces: list[int | tuple[int, ...]] = []
        for i, part in enumerate(_PLACE.split(text)):
            if i % 2:
                pieces.append(int(part))
            elif part:
                pieces.append(tuple(self.tokenizer.encode(part, add_special_tokens=False)))
        return pieces

    def _template(self, messages: Sequence[tuple[Speaker, str]], generate: bool) -> str:
        chat = [{"role": speaker, "content": content} for speaker, content in messages]
        render = self.tokenizer.apply_chat_template
        try:
            text: str = render(chat, tokenize=False, add_generation_prompt=generate, **self.keywords)
        except TemplateError as error:
            why = f"its chat template fails ({error}); choose another model or prompts"
            raise UserError(f"model.path={self.tokenizer.name_or_path}: {why}") from error
        return text

    def _end_of_turn(self) -> int:
        """The first control token that the template puts after a reply; white space may stand before it."""
        text = self._template([("user", "u"), ("assistant", "\ue000")], False)
        control = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        for token in self.tokenizer.encode(text.rpartition("\ue000")[2], add_special_tokens=False):
            if token in control:
                return int(token)
        name = self.tokenizer.name_or_path
        raise UserError(
            f"model.path={name}: its chat template closes a reply with no control token; choose another model"
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the history: an observation of the environment, a prompt (ask), or a reply (plan, action)."""

    kind: Literal["observation", "ask", "plan", "action"]
    content: Content


class Context:
    """One episode's history, from which prompts are built in one of two layouts.

    `append`: everything in order; old plans stay. `current`: observations and actions, then the plan that is given.
    """

    def __init__(self, chat: Writer, prompts: dict[str, str], layout: str, window: int | None) -> None:
        self.chat, self.prompts, self.layout, self.window = chat, prompts, layout, window
        self.entries: list[Entry] = []

    def observe(self, text: str) -> None:
        self.entries.append(Entry("observation", text))

    def prompt(self, ask: str, plan: Plan) -> list[int]:
        """Token ids of a prompt: the history in this layout, the plan if the history lacks it, and the request `ask`."""
        entries = self._windowed()
        if self.layout == "current":
            entries = [entry for entry in entries if entry.kind in ("observation", "action")]
            if plan:
                entries.append(Entry("ask", self.prompts["plan_in_force"].format(plan=number(plan))))
        return self.chat.render(self._messages([*entries, Entry("ask", ask)]))

    def replied(self, ask: str, kind: Literal["plan", "action"], reply: Content) -> None:
        """Record a reply: ids as sampled, or the text of a teacher or expert."""
        self.entries += [Entry("ask", ask), Entry(kind, self._closed(reply))]

    def _closed(self, reply: Content) -> Content:
        """A reply without its end token, which the template adds again."""
        return reply[:-1] if not isinstance(reply, str) and reply and reply[-1] == self.chat.end else reply

    def _windowed(self) -> list[Entry]:
        if self.window is None:
            return list(self.entries)
        seen = [i for i, entry in enumerate(self.entries) if entry.kind == "observation"]
        old = set(seen[1 : -self.window])  # the first one holds the instruction
        left_out = Entry("observation", self.prompts["left_out"])
        return [left_out if i in old else entry for i, entry in enumerate(self.entries)]

    def _messages(self, entries: list[Entry]) -> list[tuple[Speaker, Content]]:
        system = self.prompts.get("system")
        messages: list[tuple[Speaker, Content]] = [] if system is None else [("system", system)]
        for entry in entries:
            if entry.kind in ("plan", "action"):
                messages.append(("assistant", entry.content))
            elif messages and messages[-1][0] == "user":
                messages[-1] = ("user", f"{messages[-1][1]}\n{entry.content}")
            else:
                messages.append(("user", entry.content))
        return messages

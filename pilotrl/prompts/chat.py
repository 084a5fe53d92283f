"""A chat format: messages in, token ids out, by the model's own chat template.

What the model wrote is kept as ids and never tokenized again. Text from the environment is tokenized so that the name of a
control token in it stays text. The template is rendered once for each sequence of roles, with placeholders for contents,
so that it cannot change what was written, with one exception: if it drops the thinking of earlier replies, the ids before
the answer are left out. Tools are given to it as they are, but for the names of control tokens in them, which stay text too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any, Literal, Protocol

from jinja2 import TemplateError

from pilotrl.types import UserError

Speaker = Literal["system", "user", "assistant", "tool"]
Content = str | Sequence[int]
_THINKING = "<think>\n{}\n</think>\n\nv"
_PLACE = re.compile("\ue000(\\d+)\ue001")
_CUT = "\ue002"
"""Stands in tools where the name of a control token is cut in two."""
_PROBE: dict[str, Any] = {"name": "probe", "description": "d", "parameters": {"type": "object", "properties": {}}}


class Writer(Protocol):
    """What makes tokens of messages: all that a `Context` needs of a chat format."""

    @property
    def end(self) -> int:
        """The token that ends a reply."""
        ...

    @property
    def shows_tools(self) -> bool:
        """Whether `render` shows tools. Raises UserError if a model would write calls in a form that is not read."""
        ...

    @property
    def has_tool_role(self) -> bool:
        """Whether messages may be a tool's."""
        ...

    def uncontrolled(self, tools: str) -> str: ...

    def render(self, messages: Sequence[tuple[Speaker, Content]], tools: str = "") -> list[int]:
        """`tools`: JSON text of a list that `uncontrolled` gave, or empty."""
        ...

    def reply(self, *pieces: str) -> list[int]: ...


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
        self.markup = partial(tokenizer.encode, add_special_tokens=False)
        added = tokenizer.added_tokens_decoder.items()
        self.thought = next((i for i, token in added if token.content == "</think>"), None)
        # Names that are tokens without being special: transformers finds those in any text.
        names = "|".join(re.escape(token.content) for _, token in added if not token.special and token.content.strip())
        self.names = re.compile(f"(?={names})" if names else "(?!)")
        control = [re.escape(token.content) for _, token in added if token.content.strip()]
        self.control = re.compile(f"(?={'|'.join(control)})" if control else "(?!)")
        self.forgets = not self._kept(("user", "assistant", "user"))
        self.end = self._end_of_turn()
        self.scaffold = lru_cache(maxsize=4096)(self._scaffold)
        self.kept = lru_cache(maxsize=4096)(self._kept)
        self.encode = lru_cache(maxsize=65536)(lambda text: self._encode(text.encode(errors="replace").decode()))

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template shows tools. Raises UserError if it does, and writes calls in another form than ours."""
        tools: list[Any] = [{"type": "function", "function": _PROBE}]
        call = {"type": "function", "id": "a23456789", "function": {"name": "probe", "arguments": {}}}
        said = {"role": "assistant", "content": "", "tool_calls": [call]}
        try:
            if "probe" not in self._template([("user", "u")], True, json.dumps(tools)):
                return False
            render, chat = self.tokenizer.apply_chat_template, [{"role": "user", "content": "u"}, said]
            text = str(render(chat, tokenize=False, tools=tools, **self.keywords))
        except (UserError, TemplateError, TypeError):
            text = ""
        if not re.search(r'<tool_call>\s*\{"name": "probe"', text):
            raise UserError(
                f"agent.replies=tool_call: the chat template of model.path={self.tokenizer.name_or_path} has tools, and writes"
                " calls in another form than <tool_call>{...}</tool_call>; set agent.replies=tagged"
            )
        return True

    @cached_property
    def has_tool_role(self) -> bool:
        """Whether the template treats a tool's messages in another way than those of a role that it does not know."""

        def said(role: str) -> str:
            chat = [("user", "u"), ("assistant", "a"), (role, "result"), ("user", "u")]
            try:
                return self._template(chat, True)
            except UserError:
                return ""

        ours, other = said("tool"), said("nobody")
        return "result" in ours and ours.replace("tool", "nobody") != other.replace("tool", "nobody")

    def render(self, messages: Sequence[tuple[Speaker, Content]], tools: str = "") -> list[int]:
        """Ids of the conversation up to the start of the assistant's next reply. `tools`: text from `uncontrolled`, or empty."""
        ids: list[int] = []
        for piece in self.scaffold(tuple(speaker for speaker, _ in messages), tools):
            ids += self._shown(messages, piece) if isinstance(piece, int) else piece
        return ids

    def reply(self, *pieces: str) -> list[int]:
        """Ids of a reply that the model did not write, and of the token that ends it. Pieces: text, markup (where control tokens
        are such), text, ..."""
        parts = [self.markup(piece) if i % 2 else self.encode(piece) for i, piece in enumerate(pieces)]
        return [*(token for part in parts for token in part), self.end]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a reply, without its thinking and the token that ends it: for parsing only, never trained on."""
        body = self._answer(ids[:-1] if ids and ids[-1] == self.end else ids)
        text: str = self.tokenizer.decode(list(body), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _shown(self, messages: Sequence[tuple[Speaker, Content]], place: int) -> Sequence[int]:
        """Ids of a message; of a reply, those that the template shows."""
        content = messages[place][1]
        ids = self.encode(content) if isinstance(content, str) else content
        return self._answer(ids) if self.forgets and ids is content and not self._keeps(messages, place) else ids

    def _keeps(self, messages: Sequence[tuple[Speaker, Content]], place: int) -> bool:
        """Whether a template that drops thinking keeps that of a reply: some do while only tools have spoken since."""
        speakers = tuple(speaker for speaker, _ in messages)
        return "tool" in speakers[place:] and place in self.kept(speakers)

    def _kept(self, speakers: tuple[Speaker, ...]) -> frozenset[int]:
        """The messages whose thinking the template shows."""
        thoughts = [
            _THINKING.format(f"\ue000{i}\ue001") if who == "assistant" else "u" for i, who in enumerate(speakers)
        ]
        return frozenset(map(int, _PLACE.findall(self._template([*zip(speakers, thoughts, strict=True)], True))))

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

    def uncontrolled(self, tools: str) -> str:
        """Text of tools that is cut where the name of a control token begins, so that `render` keeps it text."""
        tools = re.sub(f"[\ue000-{_CUT}]", "", tools)
        cuts = [0, *(found.start() + 1 for found in self.control.finditer(tools)), len(tools)]
        return _CUT.join(tools[a:b] for a, b in pairwise(cuts))

    def _scaffold(self, speakers: tuple[Speaker, ...], tools: str) -> list[int | tuple[int, ...]]:
        """The rendered template with placeholders: tuples of ids, and between them the indices of messages."""
        text = self._template([(speaker, f"\ue000{i}\ue001") for i, speaker in enumerate(speakers)], True, tools)
        texts = [part if i % 2 else part.split(_CUT) for i, part in enumerate(_PLACE.split(text)) if part]
        return [
            int(part) if isinstance(part, str) else tuple(i for half in part for i in self.markup(half))
            for part in texts
        ]

    def _template(self, messages: Sequence[tuple[str, str]], generate: bool, tools: str = "") -> str:
        chat = [{"role": speaker, "content": content} for speaker, content in messages]
        render, more = self.tokenizer.apply_chat_template, {"tools": json.loads(tools)} if tools else {}
        try:
            text: str = render(chat, tokenize=False, add_generation_prompt=generate, **more, **self.keywords)
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

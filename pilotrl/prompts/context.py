"""The context: builds the prompt of a call, as token ids, from an episode's history and the model's own chat template.

What the model wrote is kept as ids and never tokenized again. Text from the environment is tokenized so that the name of a
control token in it stays text. The template is rendered once for each sequence of roles, with placeholders for contents,
so that it cannot change what was written, with one exception: if it drops the thinking of earlier replies, the ids before
the answer are left out. Tools are given to it as they are, but for the names of control tokens in them, which stay text too.
Whether one prompt continues another is decided on tokens, in training/batch.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any, Literal, Protocol

from jinja2 import TemplateError

from pilotrl import prompts as words
from pilotrl.prompts.parsing import number
from pilotrl.types import Plan, UserError

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

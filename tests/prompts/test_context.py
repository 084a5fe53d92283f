"""The context: ids stay as sampled, text of the environment stays text, and both layouts hold what they should."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotrl import prompts
from pilotrl.models.from_scratch import CONTROL, TEMPLATE
from pilotrl.prompts.chat import Chat
from pilotrl.prompts.context import Context
from pilotrl.prompts.parsing import number, parse_action, parse_plan
from pilotrl.training.batch import rows_of
from pilotrl.types import Call, Plan, UserError

STRICT = (
    "{% if messages[0]['role'] == 'system' %}<|system|>{{ messages[0]['content'] }}<|end|>{% set said = messages[1:] %}"
    "{% else %}{% set said = messages %}{% endif %}{% for m in said %}"
    "{% if m['role'] != ('assistant' if loop.index0 % 2 else 'user') %}{{ raise_exception('roles alternate') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Refuses anything but user, assistant, user, ... (Gemma, Mistral)."""
MANNERS = "{% if messages[0]['role'] != 'system' %}<|system|>be kind<|end|>{% endif %}" + TEMPLATE
"""Adds a system message of its own if there is none (Qwen2.5)."""
FORGETFUL = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' and loop.index0 < messages | length - 2 %}"
    "(old) {% endif %}{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Writes old replies in another way than the last one (Qwen3 strips their thoughts)."""
SPACED = TEMPLATE.replace("<|end|>", " <|end|>\n")
"""Text before and after the token that ends a turn (Llama 2, ChatML)."""


def chat_of(tokenizer: Any, template: str) -> Chat:
    other = deepcopy(tokenizer)
    other.chat_template = template
    return Chat(other)


def spelled(chat: Chat, text: str) -> list[int]:
    """Ids of a text letter by letter: what a model may write, and no tokenizer would."""
    return [token for letter in text for token in chat.encode(letter)]


def new(chat: Chat, layout: str = "append", window: int | None = None, words: str = "short") -> Context:
    context = Context(chat, prompts.load(words), layout, window)
    context.observe("Press red, then blue.")
    return context


def played(context: Context, replies: Sequence[list[int]], plans: Sequence[Plan] = ()) -> list[Call]:
    """Plan and action in turns, an observation after every action."""
    calls = []
    for i, ids in enumerate(replies):
        kind: Literal["plan", "action"] = "action" if i % 2 else "plan"
        prompt = context.prompt(f"{kind} {i // 2 + 1}", plans[i] if plans else ())
        calls.append(Call("executor" if i % 2 else "planner", prompt, ids, [0.0] * len(ids), "end", ()))
        context.replied(f"{kind} {i // 2 + 1}", kind, ids)
        if i % 2:
            context.observe(f"You pressed red. {i} of 9 done.")
    return calls


def inside(part: Sequence[int], whole: Sequence[int]) -> bool:
    return any(list(whole[i : i + len(part)]) == list(part) for i in range(len(whole)))


def test_what_the_model_wrote_is_never_tokenized_again(chat: Chat) -> None:
    text = "Action: press[red]"
    written = spelled(chat, text)
    assert written != list(chat.encode(text))
    assert chat.decode([*written, chat.end]) == text
    for layout in ("append", "current"):
        context = new(chat, layout)
        context.replied("act 1", "action", [*written, chat.end])
        context.observe("Wrong button.")
        assert inside([*written, chat.end], context.prompt("act 2", ()))


@pytest.mark.parametrize("name", CONTROL)
def test_a_control_token_in_an_observation_stays_text(chat: Chat, name: str) -> None:
    def control(observation: str) -> list[int]:
        context = new(chat)
        context.observe(observation)
        context.replied("plan 1", "plan", f"1. buy {observation}")  # a teacher quotes the world
        return [token for token in context.prompt("act 1", ()) if token in chat.tokenizer.all_special_ids]

    assert control(f"shoes{name} red{name}{name}press[red]") == control("shoes red")
    assert chat.tokenizer.convert_tokens_to_ids(name) not in chat.encode(f"a {name}")


@given(st.text())
@settings(max_examples=150, deadline=None)
def test_text_comes_back_and_holds_no_control_token(chat: Chat, text: str) -> None:
    ids = chat.encode(text)
    assert not set(ids) & set(chat.tokenizer.all_special_ids)
    assert chat.decode([*ids, chat.end]) == text


@pytest.mark.parametrize("template", [TEMPLATE, STRICT, MANNERS])
def test_the_append_layout_keeps_every_earlier_token(tokenizer: Any, template: str) -> None:
    chat = chat_of(tokenizer, template)
    texts = ("1. push the red button", "Action: press[red]", "", "x", "2. push", "Action: press[blue]")
    calls = played(new(chat), [[*spelled(chat, text), chat.end] for text in texts])
    for before, after in pairwise(calls):
        whole = before.prompt + before.ids
        assert after.prompt[: len(whole)] == whole
    assert [len(row) for row in rows_of(calls)] == [len(calls)]


def test_a_reply_that_was_cut_is_closed_in_the_next_prompt(chat: Chat) -> None:
    context, cut = new(chat), spelled(chat, "Action: pre")
    call = played(context, [cut])[0]
    after = context.prompt("act 1", ())
    assert after[: len(call.prompt) + len(cut) + 1] == [*call.prompt, *cut, chat.end]
    assert rows_of([call, Call("executor", after, [chat.end], [0.0], "end", ())])[0][0].ids == cut


def test_the_current_layout_shows_the_current_plan_and_no_other(chat: Chat) -> None:
    old, now = ("push the red button", "push the gray button"), ("push the red button", "push the blue button")
    context = new(chat, "current")
    context.replied("plan 1", "plan", number(old))
    context.replied("act 1", "action", "Action: press[red]")
    context.observe("You pressed red. 1 of 2 done.")
    context.replied("plan 2", "plan", number(now[1:], 2))
    seen = chat.decode(context.prompt("act 2", now))
    assert "gray" not in seen
    assert seen.count("1. push the red button\n2. push the blue button") == 1
    assert seen.count("push the") == 2
    assert seen.index("Press red, then blue.") < seen.index("press[red]") < seen.index("1 of 2") < seen.index("1. push")
    assert "act 1" not in seen
    assert seen.endswith("act 2<|end|><|assistant|>")


def test_a_window_keeps_the_instruction_and_the_last_observations(chat: Chat) -> None:
    context = new(chat, window=2)
    for i in range(1, 5):
        context.replied(f"act {i}", "action", f"Action: press[{i}]")
        context.observe(f"You pressed {i}.")
    seen = chat.decode(context.prompt("act 5", ()))
    assert "Press red, then blue." in seen
    assert [f"You pressed {i}." in seen for i in range(1, 5)] == [False, False, True, True]
    assert seen.count("(left out)") == 2
    assert all(f"press[{i}]" in seen for i in range(1, 5))


@pytest.mark.parametrize("layout", ["append", "current"])
@pytest.mark.parametrize("words", ["short", "full"])
def test_speakers_alternate_whatever_the_contents(tokenizer: Any, layout: str, words: str) -> None:
    chat = chat_of(tokenizer, STRICT)
    context = new(chat, layout, words=words)
    context.observe("A second thing happened.")
    played(context, [[*chat.encode("x"), chat.end]] * 6, [("a", "b")] * 6)
    context.prompt("act 4", ("a", "b"))


def test_a_system_message_comes_first_and_once(chat: Chat) -> None:
    context = new(chat, words="full")
    played(context, [[*chat.encode("x"), chat.end]] * 4)
    seen = chat.decode(context.prompt("act 3", ()))
    assert seen.startswith("<|system|>You complete a task")
    assert seen.count("<|system|>") == 1


def test_a_template_that_rewrites_history_starts_new_rows(tokenizer: Any) -> None:
    chat = chat_of(tokenizer, FORGETFUL)
    replies = [[*spelled(chat, "1. go"), chat.end] for _ in range(4)]
    calls = played(new(chat), replies)
    assert len(rows_of(calls)) == len(calls) - 1  # after the first reply nothing was old yet
    assert all(inside(replies[0], call.prompt) for call in calls[1:])  # and yet its ids are as they were sampled


def test_white_space_that_a_template_adds_after_replies_starts_new_rows(tokenizer: Any) -> None:
    chat = chat_of(tokenizer, SPACED)
    calls = played(new(chat), [[*spelled(chat, "x y"), chat.end]] * 4)
    assert len(rows_of(calls)) == len(calls)


@pytest.mark.parametrize("template", [TEMPLATE, STRICT, MANNERS, FORGETFUL, SPACED])
def test_the_end_of_a_turn_is_a_token_that_no_text_holds(tokenizer: Any, template: str) -> None:
    assert chat_of(tokenizer, template).end == tokenizer.eos_token_id


def test_a_model_without_a_usable_template_is_refused(tokenizer: Any) -> None:
    for template in (None, "{% for m in messages %}{{ m['content'] }}{% endfor %}"):
        with pytest.raises(UserError, match=r"model\.path=.*chat"):
            chat_of(tokenizer, template)  # type: ignore[arg-type]


def test_every_id_of_the_model_decodes(chat: Chat, model: Any) -> None:
    for token in range(model.config.vocab_size):  # models have more of them than their tokenizers
        assert isinstance(chat.decode([token, token]), str)


def test_plans_are_parsed_as_they_are_formatted() -> None:
    plan = ("look 3. for", "push")
    assert parse_plan(number(plan, 4), 4) == plan
    assert parse_plan("2. a\n 3.b \n", 2) == ("a", "b")
    assert number(("a", "", "c")) == "1. a\n3. c"
    for wrong in ("", "a", "1. a", "2. a\n4. b", "2. a\n\n3. b", "2. ", "2. a\nand so on", "2 a"):
        assert parse_plan(wrong, 2) is None, wrong


def test_actions_are_parsed_as_they_are_formatted() -> None:
    assert parse_action("Action: press[a b] ", False) == "press[a b]"
    assert parse_action("Thought: it is red\nAction: press[red]", True) == "press[red]"
    for wrong in ("", "press[red]", "Action:", "Action: a\nAction: b", "x Action: a", "Thought: a\nAction: b"):
        assert parse_action(wrong, False) is None, wrong
    assert parse_action("Action: press[red]", True) is None


def test_a_lone_surrogate_in_an_observation_is_text(chat: Chat) -> None:
    assert chat.encode("a\ud800b") == chat.encode("a?b")

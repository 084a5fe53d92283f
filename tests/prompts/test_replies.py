"""How replies with tags and calls of tools are read, and how tools stand in the context."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotrl import prompts
from pilotrl.engine.openai import Transcript
from pilotrl.models.from_scratch import TEMPLATE
from pilotrl.prompts.chat import Chat
from pilotrl.prompts.context import Context
from pilotrl.prompts.replies import tagged_action, tool_calls
from pilotrl.training.batch import rows_of
from pilotrl.types import Call, NotUnderstood, UserError
from tests.prompts.templates import HERMES, KEEPING, OTHER, chat_of

CALL = '<tool_call>{"name": "act"}</tool_call>'


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("<action>go</action>", "go"),
        ("  I see.\n<action>\ngo north\n  then\n</action>\n", "go north\n  then"),
        ("<think>maybe <action>stay</action></think>\n<action>go</action>", "go"),
        ("the prompt opened it</think><action>go</action>", "go"),
        ("<action>say </think></action>", "say </think>"),
        ("```\ngo\n```", "go"),
        ("So:\n```python\nfor i in x:\n    go(i)\n```\n", "for i in x:\n    go(i)"),
        ("<action>```\ngo\n```</action>", "```\ngo\n```"),
        ("<action>a < b > c</action>", "a < b > c"),
    ],
)
def test_a_tagged_action_is_what_stands_between_the_tags(reply: str, action: str) -> None:
    assert tagged_action(reply) == action


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "there is no <action>...</action>, and no code block"),
        ("go", "there is no <action>"),
        ("Action: go", "there is no <action>"),
        ("<think>hm <action>go</action>", "<think> is not closed"),
        ("<action>go", "are not a pair"),
        ("go</action>", "are not a pair"),
        ("</action>go<action>", "are not a pair"),
        ("<action>go</action><action>go</action>", "more than one <action>"),
        ("<action>a<action>b</action>", "more than one <action>"),
        ("<action>go</action> now", "text after </action>"),
        ("<action> \n</action>", "the action is empty"),
        ("```\ngo", "not closed"),
        ("```\ngo\n```\n```\nstop\n```", "more than one code block"),
        ("```go```", "begins on the line after"),
        ("```\ngo\n``` now", "text after the code block"),
        ("```\n```", "the action is empty"),
        ("<action>" * 100_000, "not a pair"),
    ],
)
def test_another_tagged_reply_is_refused_in_a_line(reply: str, why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        tagged_action(reply)


def test_calls_are_what_stands_between_their_marks() -> None:
    assert tool_calls(CALL) == ['{"name": "act"}']
    assert tool_calls(f"<think>{CALL} or not</think>I call.\n{CALL}\n{CALL}\n") == ['{"name": "act"}'] * 2
    assert tool_calls(f"hm</think>\n\n{CALL}") == ['{"name": "act"}']
    assert tool_calls('<tool_call>\n{"a": "</think>"}\n</tool_call>') == ['{"a": "</think>"}']


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "there is no <tool_call>"),
        ('{"name": "act"}', "there is no <tool_call>"),
        (f"<think>{CALL}", "<think> is not closed"),
        ("<tool_call>{}", "are not pairs"),
        ("{}</tool_call>", "there is no <tool_call>"),
        (f"</tool_call>{CALL}", "are not pairs"),
        ("<tool_call><tool_call>{}</tool_call>", "are not pairs"),
        (f"{CALL} and now\n{CALL}", "text after </tool_call>"),
        (f"{CALL}\n<tool_response>done</tool_response>", "text after </tool_call>"),
        ("<tool_call>" * 100_000, "are not pairs"),
    ],
)
def test_another_reply_with_calls_is_refused_in_a_line(reply: str, why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        tool_calls(reply)


@given(
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<action>", "</action>", "<tool_call>", "</tool_call>", "```", "a", "\n"]
        )
    )
)
@settings(max_examples=300, deadline=None)
def test_any_mixture_of_marks_is_read_or_refused(pieces: list[str]) -> None:
    for read in (tagged_action, tool_calls):
        try:
            found = read("".join(pieces))
        except NotUnderstood:
            continue
        assert found
        assert read is tagged_action or not any(
            mark in call for call in found for mark in ("<tool_call>", "</tool_call>")
        )


def tool(description: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": "price", "description": description, "parameters": {"type": "object"}},
    }


def context_of(chat: Chat | Transcript, system: str = "", words: str = "short", window: int | None = None) -> Context:
    context = Context(chat, prompts.load(words), "append", window)
    context.introduce(system, [tool("the price")])
    context.observe("Pay for apple.")
    return context


def test_a_template_with_tools_shows_them_as_it_does_itself(tokenizer: Any) -> None:
    chat = chat_of(tokenizer)
    context = context_of(chat, "You work at a till.")
    context.replied("", "action", "CALL")
    context.observe("3\n4", ["3", "4"])
    talk = [{"role": "system", "content": "You work at a till."}, {"role": "user", "content": "Pay for apple."}]
    talk += [{"role": "assistant", "content": "CALL"}, *({"role": "tool", "content": text} for text in "34")]
    native = chat.tokenizer.apply_chat_template(
        talk, tools=[tool("the price")], add_generation_prompt=True, tokenize=False
    )
    assert chat.tokenizer.decode(context.prompt("", ()), skip_special_tokens=False) == native
    assert native.count("<|user|>") == 2
    assert (chat.shows_tools, chat.has_tool_role) == (True, True)


def test_without_tools_in_the_template_the_system_prompt_has_them(chat: Chat) -> None:
    for one in (chat, Transcript()):
        context = context_of(one, "You work at a till.", words="full")
        context.replied("", "action", "CALL")
        context.observe("3\n4", ["3", "4"])
        ids = context.prompt("", ())
        seen = one.decode(ids) if isinstance(one, Chat) else str(one.messages(ids))
        assert (one.shows_tools, one.has_tool_role) == (False, False)
        order = [
            "You complete a task",
            "You work at a till.",
            '{"name": "price", "description": "the price"',
            "Pay for",
        ]
        assert [seen.index(part) for part in order] == sorted(seen.index(part) for part in order)
    assert seen.endswith("('user', '3\\n4'))")


def test_calls_in_another_dialect_are_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"agent\.replies=tool_call: the chat template of .* set agent\.replies=tagged"):
        context_of(chat_of(tokenizer, OTHER))


def test_a_tool_role_is_one_that_the_template_knows(tokenizer: Any) -> None:
    strict = "{% for m in messages if m.role == 'tool' %}{{ raise_exception('no') }}{% endfor %}" + TEMPLATE
    templates = {TEMPLATE: False, HERMES: True, strict: False}
    for template, known in templates.items():
        assert chat_of(tokenizer, template).has_tool_role is known, template


def test_names_of_control_tokens_in_tools_results_and_system_stay_text(tokenizer: Any) -> None:
    chat = chat_of(tokenizer)
    control = {*chat.tokenizer.all_special_ids, *chat.tokenizer.added_tokens_decoder}
    names = f"<|end|><|assistant|>{CALL}<think>\ue0000\ue001\ue002"

    def seen(text: str) -> list[int]:
        context = Context(chat, prompts.load("short"), "append", None)
        context.introduce(f"s {text}", [tool(f"the price {text}")])
        context.observe(f"o {text}")
        context.replied("", "action", f"a {text}")
        context.observe(text, [f"r {text}", f"r {text}"])
        return context.prompt("", ())

    assert [i for i in seen(names) if i in control] == [i for i in seen("") if i in control]
    assert chat.tokenizer.decode(seen(names), skip_special_tokens=False).count("<|assistant|><tool_call>") == 6


def test_the_replies_of_a_loop_of_calls_are_one_row_of_ids_as_they_were_sampled(tokenizer: Any) -> None:
    """Thinking included, where the template keeps it while only tools speak."""
    for template in (HERMES, KEEPING):
        chat = chat_of(tokenizer, template)
        ids = chat.reply("", "<think>", "which one?", "</think>\n<tool_call>", '{"name": "price"}', "</tool_call>")
        context, made = context_of(chat), list[Call]()
        for result in "34":
            made.append(Call("executor", context.prompt("", ()), ids, [0.0] * len(ids), "end", ()))
            context.replied("", "action", ids)
            context.observe(result, [result])
        for before, after in pairwise(made):
            assert after.prompt[: len(before.prompt) + len(ids)] == before.prompt + ids
        assert [len(row) for row in rows_of(made)] == [2]
        asked = chat.tokenizer.decode(context.prompt("go on", ()))
        assert ("which one?" in asked) is (template == HERMES)  # a user speaks again: thinking is dropped by KEEPING
        assert asked.count('{"name": "price"}') == 2


def test_markup_of_a_demonstration_has_control_tokens_and_its_text_has_none(tokenizer: Any) -> None:
    chat = chat_of(tokenizer)
    mark = chat.tokenizer.convert_tokens_to_ids("<tool_call>")
    ids = chat.reply("say <tool_call>", "<tool_call>", "<tool_call>", "</tool_call>")
    assert ids.count(mark) == 1
    assert chat.decode(ids) == "say <tool_call><tool_call><tool_call></tool_call>"


def test_a_window_leaves_out_turns_whatever_the_number_of_their_results(tokenizer: Any) -> None:
    context = context_of(chat_of(tokenizer), window=1)
    for number in (1, 2):
        context.replied("", "action", "CALL")
        context.observe("", [f"first of {number}", f"second of {number}"])
    seen = context.chat.decode(context.prompt("", ()))  # type: ignore[attr-defined]
    assert [f"{which} of {number}" in seen for number in (1, 2) for which in ("first", "second")] == [
        False,
        False,
        True,
        True,
    ]
    assert seen.count("(left out)") == 2
    assert "Pay for apple." in seen


def test_a_system_text_alone_is_a_system_message(chat: Chat) -> None:
    context = Context(chat, prompts.load("short"), "append", None)
    context.introduce("You work at a till.", [])
    context.observe("Pay.")
    assert (
        chat.decode(context.prompt("act", ()))
        == "<|system|>You work at a till.<|end|><|user|>Pay.\nact<|end|><|assistant|>"
    )


def test_prompts_have_words_for_each_form_and_lines_have_theirs_alone() -> None:
    line = prompts.load("full")
    assert not line.keys() & {*prompts.BY_FORM}
    assert prompts.worded(line, "always", False, "line") == line
    for form in ("tagged", "tool_call"):
        texts = prompts.load("full", "always", "plan", form)
        own = prompts.worded(texts, "always", False, form)
        assert own.keys() == prompts.load("full", "always", "plan").keys()
        assert all("Action:" not in own[name] for name in prompts.ACTING)
        assert own["plan"] == line["plan"]
        short = prompts.load("short", replies=form)
        assert prompts.worded(short, "always", False, form) == short == prompts.load("short")
    silent = prompts.worded(prompts.load("full", "never", "none", "tool_call"), "never", False, "tool_call")
    assert silent["act_free"] == ""

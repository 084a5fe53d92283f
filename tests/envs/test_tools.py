"""Environments with tools: how calls are checked, and how an environment is answered and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotrl.config import search_path
from pilotrl.envs import Env, load
from pilotrl.envs.tools import ACT, Tool, ToolCall, calls, tools_of, written
from pilotrl.types import NotUnderstood, UserError
from tests.envs.page import written as page_written

PAGE = Path(__file__).parents[2] / "docs" / "replies.md"


def tool(name: str, parameters: Any) -> Tool:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    tool(
        "write",
        {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "lines": {"type": "array", "items": {"type": "string"}},
                "mode": {"enum": ["new", "append"]},
                "times": {"type": ["integer", "null"]},
                "at": {"type": "object", "properties": {"hour": {"type": "number"}}, "required": ["hour"]},
                "bare": {"type": "boolean"},
            },
            "required": ["path"],
        },
    ),
    tool("clock", {}),
    tool("open", {"type": "object", "additionalProperties": True}),
]


@pytest.fixture
def till(tmp_path: Path) -> Env:
    search_path.add(page_written(PAGE, tmp_path, "till"))
    return load("till")


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def test_calls_come_back_as_they_were_written() -> None:
    one, other = ToolCall("write", {"path": "ü\n", "at": {"hour": 1.5}}), ToolCall("clock", {})
    assert written([one]) == '{"name": "write", "arguments": {"path": "ü\\n", "at": {"hour": 1.5}}}'
    assert calls(written([one]), TOOLS) == [one]
    assert calls(written([one, other, one]), TOOLS) == [one, other, one]
    assert calls(call("open", anything=[{"at": 1}], more=None), TOOLS)
    assert calls(call("write", path="", times=None, lines=[], mode="new", bare=False), TOOLS)


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ("", "no JSON"),
        ("look", "no JSON"),
        ("[]", "there is no call"),
        ("7", 'a call is {"name": ..., "arguments": {...}}'),
        ('{"name": "clock"}', "a call is"),
        ('{"name": "clock", "arguments": {}, "id": 1}', "a call is"),
        ('{"name": "clock", "arguments": "{}"}', "clock: arguments must be an object"),
        ('{"name": ["clock"], "arguments": {}}', "there is no tool ['clock']"),
        (call("read", path="a"), "there is no tool read; there are write, clock, open"),
        (call("write"), "write: path is missing"),
        (call("write", path=3), "write: path must be string"),
        (call("write", path="a", paht="a"), "write: there is no argument paht; there are path, lines"),
        (call("write", path="a", lines=["b", 3]), "write: lines[1] must be string"),
        (call("write", path="a", mode="over"), "write: mode must be one of new, append"),
        (call("write", path="a", times=True), "write: times must be integer or null"),
        (call("write", path="a", times=1.5), "write: times must be integer or null"),
        (call("write", path="a", bare=1), "write: bare must be boolean"),
        (call("write", path="a", at={}), "write: hour is missing in at"),
        (call("write", path="a", at={"hour": 1, "day": 1}), "write: there is no argument day; there are hour"),
        (call("clock", zone="UTC"), "clock: there is no argument zone; there are none"),
        (f"[{call('clock')}, {call('read')}]", "there is no tool read"),
        ('{"name": "open", "arguments": {"a": NaN}}', "no JSON"),
        ('{"name": "open", "arguments": {"a": 1e999}}', "open: a number is too large"),
        ('{"name": "open", "arguments": {"a": "\\ud800"}}', "no JSON"),
        ("[" * 10_000, "no JSON"),
        ('{"name":' * 10_000, "no JSON"),
    ],
)
def test_what_is_no_call_is_refused_in_a_line(action: str, why: str) -> None:
    with pytest.raises(NotUnderstood) as refused:
        calls(action, TOOLS)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
@settings(max_examples=100, deadline=None)
def test_whatever_the_arguments_they_come_back_or_are_refused(arguments: dict[str, Any]) -> None:
    try:
        (back,) = calls(json.dumps({"name": "open", "arguments": arguments}), TOOLS)
    except NotUnderstood:  # a half of a character, or a number of thousands of digits
        return
    assert back.arguments == arguments
    assert calls(written([back, back]), TOOLS) == [back, back]


class Odd:
    def __init__(self, tools: Any) -> None:
        self.tools = tools


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ("price", "its tools are price; must be a list"),
        (["price"], "a tool of it is price; must be"),
        ([{"type": "function"}], "a tool of it is"),
        ([tool("a b", {})], "a tool of it is"),
        ([tool("price", [])], "the parameters of its tool price must be"),
        ([tool("price", {"required": "item"})], "the parameters of its tool price must be"),
        ([ACT, ACT], "has two tools act"),
    ],
)
def test_what_are_no_tools_is_refused(tools: Any, why: str) -> None:
    with pytest.raises(UserError) as refused:
        tools_of(Odd(tools), "task")  # type: ignore[arg-type]
    assert why in str(refused.value)
    assert str(refused.value).startswith("env=tests.envs.test_tools.Odd: ")


def test_the_environment_of_the_page_answers_each_call_and_stops_where_it_is_over(till: Env) -> None:
    till.reset(options={"task": "apple"})
    asked = [ToolCall("price", {"item": "apple"}), ToolCall("price", {"item": "tin"}), ToolCall("pay", {"total": 3})]
    text, reward, terminated, _, info = till.step(written([*asked, *asked]))
    assert info["results"] == ["3", "There is no tin.", "Thank you."]
    assert (text, reward, terminated) == ("3\nThere is no tin.\nThank you.", 1.0, True)
    assert (info["solved"], info["valid"]) == (True, True)

"""The tools: what each is called, takes and does, as JSON schemas too; and calls as text, read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pilotrl.envs import tools as protocol
from pilotrl.types import NotUnderstood

LARGEST = 10**9
"""Whole numbers of more than so much are refused."""
LINE = re.compile(r"([a-z_]+)\[([^\n]*)\]")


class Tool(NamedTuple):
    """A tool."""

    about: str
    takes: dict[str, str]
    """Argument -> its type in JSON Schema."""


CALCULATOR = {"add": "sum", "multiply": "product", "difference": "difference", "larger": "larger", "smaller": "smaller"}
"""Calculators, and what each gives. None minds the order of its numbers."""
SOURCES = ("look_up", "read_file", "read_note", "find_event")
SINKS = ("answer", "write_file", "save_note", "book_event")
LISTS = ("list_tables", "list_files", "list_notes", "list_events")

_TWO = {"a": "integer", "b": "integer"}
TOOLS = {
    "add": Tool("The sum of two numbers.", _TWO),
    "multiply": Tool("The product of two numbers.", _TWO),
    "difference": Tool("The larger of two numbers less the smaller.", _TWO),
    "larger": Tool("The larger of two numbers.", _TWO),
    "smaller": Tool("The smaller of two numbers.", _TWO),
    "look_up": Tool("The number in a row of a table.", {"table": "string", "row": "string"}),
    "read_file": Tool("What a file says.", {"file": "string"}),
    "read_note": Tool("What a note says.", {"note": "string"}),
    "find_event": Tool("Day and hour of an event in the calendar.", {"event": "string"}),
    "list_tables": Tool("The names of the tables.", {}),
    "list_files": Tool("The names of the files.", {}),
    "list_notes": Tool("The names of the notes.", {}),
    "list_events": Tool("The names of the events in the calendar.", {}),
    "answer": Tool("Answers the task, which ends it.", {"value": "text"}),
    "write_file": Tool("Writes a new file.", {"file": "string", "value": "text"}),
    "save_note": Tool("Saves a new note.", {"note": "string", "value": "text"}),
    "book_event": Tool("Puts a new event into the calendar.", {"event": "string", "day": "string", "hour": "integer"}),
    "clock": Tool("The time.", {}),
    "weather": Tool("The weather on a day.", {"day": "string"}),
}
TYPES: dict[str, Any] = {"integer": "integer", "string": "string", "text": ["string", "integer"]}


class Call(NamedTuple):
    """A call of a tool, with its arguments in the order of the tool's own."""

    tool: str
    arguments: tuple[int | str, ...]


class NoCall(Exception):
    """An action that is no call of a tool that there is; its message is the reply."""


def schema(name: str) -> dict[str, Any]:
    """A tool in OpenAI's function format."""
    about, takes = TOOLS[name]
    properties = {key: {"type": TYPES[kind]} for key, kind in takes.items()}
    parameters = {"type": "object", "properties": properties, "required": [*takes]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def written(call: Call, form: str) -> str:
    """A call as an action: `add[12, 30]`, or in the form json `{"name": "add", "arguments": {"a": 12, "b": 30}}`."""
    if form == "line":
        return f"{call.tool}[{', '.join(map(str, call.arguments))}]"
    arguments = dict(zip(TOOLS[call.tool].takes, call.arguments, strict=True))
    return protocol.written([protocol.ToolCall(call.tool, arguments)])


def signature(name: str, form: str) -> str:
    """A tool and its arguments, as the first observation lists them."""
    takes = ", ".join(TOOLS[name].takes)
    return f"{name}[{takes}]" if form == "line" else f"{name}({takes})"


def shape(name: str, form: str) -> str:
    """How a call of the tool looks."""
    return signature(name, form) if form == "line" else written(Call(name, ("...",) * len(TOOLS[name].takes)), form)


def calls(action: str, offered: Sequence[str], form: str) -> list[Call]:
    """The calls that an action is, at least one: one in a line, or JSON text of one call or a list. Raises NoCall, which says
    in the `form` that is shown what would be right."""
    if match := LINE.fullmatch(action):
        name, takes = match[1], TOOLS[_offered(match[1], offered)].takes
        given = [part.strip() for part in match[2].split(",")] if match[2].strip() else []
        if len(given) != len(takes):
            raise NoCall(f"Error: it is {signature(name, 'line')}.")
        return [_checked(name, dict(zip(takes, given, strict=True)))]
    if not action.startswith(("{", "[")):
        raise NoCall(f"Error: no call of a tool; such as {shape(offered[0], form)}.")
    try:
        asked = protocol.calls(action, [schema(name) for name in offered])
    except NotUnderstood as error:
        raise NoCall(f"Error: {error}.") from None
    return [_checked(call.name, call.arguments) for call in asked]


def _offered(name: str, offered: Sequence[str]) -> str:
    if name not in offered:
        raise NoCall(f"Error: there is no tool {name[:20]}; there are {', '.join(offered)}.")
    return name


def _checked(name: str, given: Mapping[str, Any]) -> Call:
    """A call with arguments of the right types; numbers of a line are text. Raises NoCall."""
    arguments = list[int | str]()
    for key, kind in TOOLS[name].takes.items():
        value = given[key]
        if not str(value).strip():
            raise NoCall(f"Error: {name}: {key} is missing.")
        if kind == "integer" and not (re.fullmatch(r"-?[0-9]{1,10}", str(value)) and abs(int(value)) <= LARGEST):
            raise NoCall(f"Error: {name}: {key} is a whole number, such as 12.")
        arguments.append(int(value) if kind == "integer" else " ".join(str(value).split()))
    return Call(name, tuple(arguments))

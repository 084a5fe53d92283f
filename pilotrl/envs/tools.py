"""Environments with tools: what such an environment offers, what its `step` gets, and how it answers several calls at once.

An environment is one with tools if it has `tools`: JSON schemas in OpenAI's function format, of the class, or of the instance
where tasks differ. They are read after each reset, and stay until the next.

    tools = [{"type": "function", "function": {"name": "add", "description": "Adds two numbers.", "parameters": {
        "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}}}]

One reply is one turn and one `step`, however many calls are in it. Its action is JSON text, one call or a list of several:

    {"name": "add", "arguments": {"a": 1, "b": 2}}
    [{"name": "add", "arguments": {"a": 1, "b": 2}}, {"name": "clock", "arguments": {}}]

`calls(action, self.tools)` reads it, in the order of the reply; for an action that is anything else it raises `NotUnderstood`, in
a line that can be the observation. What a model replied is checked by the same rules before the environment gets it, and
an action that is no call comes as the empty text, so `step` has nothing else to check.

    def step(self, action):
        try:
            asked = calls(action, self.tools)
        except NotUnderstood as error:
            return self.turn(str(error), valid=False)          # it costs a turn
        results = [self.do(call.name, call.arguments) for call in asked]
        return self.turn("\\n".join(results), valid=True, results=results)

`results` in the `info` of a step: a text for each call, in their order, each of which becomes a message of its own. The calls
after one that ends the episode are not carried out, and have none. Without `results` the observation is the one result.
A tool that fails (no such file) is an action that was understood: `valid`, with a result that says so.

`system`, of any environment, with tools or without: a text for the system prompt, after that of the prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from pilotrl.envs import Env, Mixed
from pilotrl.types import NotUnderstood, UserError

Tool = Mapping[str, Any]
"""`{"type": "function", "function": {"name": ..., "description": ..., "parameters": a JSON schema of an object}}`."""

ACT: Tool = {
    "type": "function",
    "function": {
        "name": "act",
        "description": "Acts in the environment.",
        "parameters": {
            "type": "object",
            "properties": {"action": {"type": "string", "description": "The action, as the environment writes it."}},
            "required": ["action"],
        },
    },
}
"""The one tool of an environment that has none: its argument is the action."""

KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
"""The types of JSON Schema."""


class ToolCall(NamedTuple):
    """A call of a tool."""

    name: str
    arguments: dict[str, Any]


def calls(action: str, tools: Sequence[Tool]) -> list[ToolCall]:
    """The calls that an action is, in order: at least one. Raises NotUnderstood, which says why it is none."""
    held = parsed(action)
    return checked(held if isinstance(held, list) else [held], tools)


def parsed(text: str) -> Any:
    """The value of JSON text. Raises NotUnderstood for any other text, and for values nested some 200 deep."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise NotUnderstood(f"a call is no JSON: {error}") from error


def checked(held: Sequence[Any], tools: Sequence[Tool]) -> list[ToolCall]:
    """Calls from JSON values, each `{"name": ..., "arguments": {...}}`, checked against the tools' schemas: the name, and of the
    arguments that there are all that are required and none that is unknown (but for `additionalProperties`), `type` and
    `enum`, in `properties` and `items` too. What else a schema says is the tool's own to check. Raises NotUnderstood.
    """
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    if not held:
        raise NotUnderstood("there is no call")
    return [_checked(one, schemas) for one in held]


def _checked(held: Any, schemas: Mapping[str, Any]) -> ToolCall:
    if not (isinstance(held, dict) and held.keys() == {"name", "arguments"}):
        raise NotUnderstood('a call is {"name": ..., "arguments": {...}}')
    name, arguments = held["name"], held["arguments"]
    if not isinstance(name, str) or name not in schemas:
        raise NotUnderstood(f"there is no tool {_short(name)}; there are {', '.join(schemas)}")
    if not isinstance(arguments, dict):
        raise NotUnderstood(f"{name}: arguments must be an object")
    if wrong := _wrong(arguments, {"type": "object", **schemas[name]}, ""):
        raise NotUnderstood(f"{name}: {wrong}")
    try:
        json.dumps(arguments, allow_nan=False)
    except ValueError:
        raise NotUnderstood(f"{name}: a number is too large") from None
    return ToolCall(name, arguments)


def _wrong(value: Any, schema: Any, where: str) -> str | None:
    """What is wrong with a value, by a schema; None if nothing is."""
    if not isinstance(schema, Mapping):
        return None
    kinds = schema.get("type", list(KINDS))
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not any(_is(value, kind) for kind in kinds):
        return f"{where or 'arguments'} must be {' or '.join(map(str, kinds))}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {', '.join(map(str, schema['enum']))}"
    inside: list[tuple[Any, Any, str]] = []
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if missing := [name for name in schema.get("required", ()) if name not in value]:
            return f"{', '.join(missing)} is missing{where and f' in {where}'}"
        if "properties" in schema or not where:
            strange = [name for name in value if name not in known and not schema.get("additionalProperties")]
            if strange:
                return f"there is no argument {_short(strange[0])}; there are {', '.join(known) or 'none'}"
        inside = [(value[name], known[name], f"{where}.{name}".lstrip(".")) for name in value if name in known]
    elif isinstance(value, list):
        inside = [(one, schema.get("items"), f"{where}[{place}]") for place, one in enumerate(value)]
    return next((wrong for one in inside if (wrong := _wrong(*one))), None)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, KINDS.get(kind, object)) and (kind == "boolean" or not isinstance(value, bool))


def written(asked: Sequence[ToolCall]) -> str:
    """The action that calls are: JSON text, which `calls` reads."""
    held = [json.dumps(call._asdict(), ensure_ascii=False) for call in asked]
    return held[0] if len(held) == 1 else f"[{', '.join(held)}]"


def tools_of(env: Env, task: str) -> list[Tool]:
    """The tools of an environment that was reset to a task; none of one that is played by text.

    Raises UserError for what is no list of tools in OpenAI's format."""
    world = env.environment(task) if isinstance(env, Mixed) else env
    held = getattr(world, "tools", [])
    kind = f"{type(world).__module__}.{type(world).__qualname__}"
    if not isinstance(held, list | tuple):
        raise UserError(f"env={kind}: its tools are {_short(held)}; must be a list")
    for tool in held:
        about = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
        about = about if isinstance(about, Mapping) else {}
        name = about.get("name")
        if not (isinstance(name, str) and re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII)):
            form = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
            raise UserError(f"env={kind}: a tool of it is {_short(tool)}; must be {form}")
        if not _is_schema(about.get("parameters", {})):
            raise UserError(f"env={kind}: the parameters of its tool {name} must be a JSON schema of an object")
    names = [tool["function"]["name"] for tool in held]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"env={kind}: has two tools {twice}; give each a name of its own")
    return list(held)


def _is_schema(held: Any) -> bool:
    """Whether it looks like the schema of an object."""
    parts = {"properties": Mapping, "required": list | tuple}
    return isinstance(held, Mapping) and all(isinstance(held[key], kind) for key, kind in parts.items() if key in held)


def system_of(env: Env, task: str) -> str:
    """What an environment that was reset to a task adds to the system prompt; empty for nothing."""
    world = env.environment(task) if isinstance(env, Mixed) else env
    return str(getattr(world, "system", ""))


def _short(value: Any) -> str:
    return " ".join(str(value).split())[:60]

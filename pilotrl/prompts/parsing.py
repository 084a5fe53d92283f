"""Parsing: from a reply's text to a plan or an action, and from a plan to numbered lines."""

from __future__ import annotations

import re

from pilotrl.types import Plan


def number(plan: Plan, start: int = 1) -> str:
    """A plan as text, one numbered line a step; turns without a step are left out."""
    return "\n".join(f"{i}. {step}" for i, step in enumerate(plan, start) if step)


def parse_plan(text: str, start: int) -> Plan | None:
    """Steps of a planner's reply whose lines are numbered start, start + 1, ...; None if it has another format."""
    steps = []
    for i, line in enumerate(text.strip().split("\n"), start):
        found = re.fullmatch(rf"{i}\. *(\S.*)", line.strip())
        if not found:
            return None
        steps.append(found[1])
    return tuple(steps)


def parse_lasting(text: str, current: int, done: bool) -> Plan | None:
    """Steps of a planner's reply where steps last, from number `current`, the one in force, or from the next number on.

    From the next on: the step in force is done, and an empty one stands for it. That is no plan unless it may be `done`: before
    the first plan there is none. None for any other number: steps are done one after another, and none is undone."""
    steps = parse_plan(text, current)
    if steps is None and done and (later := parse_plan(text, current + 1)):
        return "", *later
    return steps


def parse_action(text: str, thinks: bool) -> str | None:
    """The action of an executor's reply; None if it has another format."""
    pattern = r"Thought: *(\S.*)\nAction: *(\S.*)" if thinks else r"Action: *(\S.*)"
    found = re.fullmatch(pattern, text.strip())
    return found[found.re.groups] if found else None

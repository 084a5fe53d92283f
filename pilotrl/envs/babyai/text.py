"""BabyAI's texts: AgentGym's, on which agents are trained, or short ones for small models."""

from __future__ import annotations

import re

from pilotrl.envs.babyai.commands import UNCHANGED
from pilotrl.envs.babyai.view import View

COMPLETED = "\n The task is completed."
WORDINGS = ("full", "short")


def described(view: View, wording: str) -> str:
    """The observation: things in sight, what the agent faces, and what it carries."""
    return _full(view) if wording == "full" else _short(view)


def _full(view: View) -> str:
    said = "In front of you in this room, you can see several objects: "
    if not view.things():
        said = "You cannot see any objects within sight."
    for name, cell in view.numbered():
        ahead, right = view.pose.relative(cell)
        side = "right" if right > 0 else "left"
        where = f"{ahead} steps in front of you and {abs(right)} steps to your {side}. "
        said += f"There is a {name} {where if right else f'right in front of you {ahead} steps away. '} "
    barrier = view.barrier()
    faced = f"You are facing a {barrier[0]} {barrier[1]} steps away. " if barrier else ""
    held = f"a {view.carrying.color} {view.carrying.kind}" if view.carrying else None
    return f"{said}The room has walls around you. {faced}You are {f'carrying {held}' if held else 'not carrying anything'}."


def _short(view: View) -> str:
    said = []
    for name, cell in view.numbered():
        ahead, right = view.pose.relative(cell)
        side = f" {abs(right)} {'right' if right > 0 else 'left'}" if right else ""
        said.append(f"{name} {ahead} ahead{side}")
    barrier = view.barrier()
    said += [f"facing {barrier[0]} {barrier[1]} ahead"] if barrier else []
    said += [f"carrying {view.carrying.name}"] if view.carrying else []
    return "; ".join(said or ["nothing in sight"]) + "."


def mission(said: str) -> str:
    """The mission in AgentGym's wording, in which only a comma shows the order."""
    return said.replace("then", "and").replace("after you", "and")


# What an action means in words, for the judge

NAME = re.compile(r"((?:go to|pick ?up|go through|toggle and go through) )((?:[a-z]+ ){2,3}\d+)")
HELD = re.compile(r"\bcarrying (?:a )?([a-z]+ (?:ball|box|key))")
FRONT = re.compile(r"([a-z]+ (?:closed|locked) door \d+) (?:right in front of you 1 steps|1 ahead;)")


def resolve(observation: str, action: str, reply: str = "") -> str:
    """What the action did, in words; "" for a thing that is not in sight, and where nothing changed.

    Toggling a door is opening it, and what is dropped is what was carried."""
    action = action.strip().lower()
    if reply.startswith(UNCHANGED):
        return ""
    if action == "drop" and (held := HELD.search(observation)):
        return f"drop {held[1]}"
    if action == "toggle" and (door := FRONT.search(observation)):
        return f"open {door[1]}"
    named = NAME.fullmatch(action)
    listed = " ahead" in observation or " steps " in observation
    if named and listed and not re.search(rf"\b{named[2]}\b", observation):
        return ""
    return re.sub("^toggle and go through ", "open ", action)

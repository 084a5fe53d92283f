"""ALFWorld's texts: writes its replies and parses them. Agents are trained on these texts: do not change them.

Two wordings: `put` is that of ALFWorld 0.3 as AgentGym and the papers show it (without the sentence on arrival), `move`
that of 0.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

NOTHING_HAPPENS = "Nothing happens."
TEMPLATES = {
    "place": ("put a {thing} in {place}", "put some {thing} on {place}"),
    "light": ("look at {thing} under the {place}", "examine the {thing} with the {place}"),
    "clean": ("put a clean {thing} in {place}", "clean some {thing} and put it in {place}"),
    "heat": ("put a hot {thing} in {place}", "heat some {thing} and put it in {place}"),
    "cool": ("put a cool {thing} in {place}", "cool some {thing} and put it in {place}"),
    "two": ("put two {thing} in {place}", "find two {thing} and put them in {place}"),
}
"""Type of task -> its two phrasings."""


class Goal(NamedTuple):
    """The goal: a type of task, a kind of thing, and a kind of place (of lamp for `light`)."""

    type: str
    thing: str
    place: str
    phrasing: int


class Wording(NamedTuple):
    """The texts that differ between ALFWorld's versions."""

    arrive: str
    put: str
    done: str


WORDINGS = {
    "put": Wording("", "put {thing} in/on {place}", "You put the {thing} in/on the {place}."),
    "move": Wording("You arrive at {place}. ", "move {thing} to {place}", "You move the {thing} to the {place}."),
}


def ordered(names: Iterable[str]) -> list[str]:
    """Names in ALFWorld's order: by kind, the highest number first."""
    return sorted(names, key=_rank)


@lru_cache(maxsize=4096)
def _rank(name: str) -> tuple[str, int]:
    kind, _, number = name.partition(" ")
    return kind, -int(number)


def listed(names: Iterable[str]) -> str:
    """`a mug 2, a mug 1, and a pen 1`, or `nothing`."""
    articled = [f"a {name}" for name in ordered(names)]
    return ", and ".join(filter(None, (", ".join(articled[:-1]), *articled[-1:]))) or "nothing"


def opening(places: Iterable[str], goal: Goal) -> str:
    """The first observation."""
    task = TEMPLATES[goal.type][goal.phrasing].format(thing=goal.thing, place=goal.place)
    return f"{around(listed(places))}\nYour task is to: {task}."


def around(seen: str) -> str:
    """The text in the middle of the room; a later `look` there shows nothing, in the original too."""
    return f"You are in the middle of a room. Looking quickly around you, you see {seen}."


def inside(place: str, things: Iterable[str], openable: bool, is_open: bool) -> str:
    """The text of a place and its things."""
    if openable and not is_open:
        return f"The {place} is closed."
    return (
        f"The {place} is open. In it, you see {listed(things)}."
        if openable
        else f"On the {place}, you see {listed(things)}."
    )


def examined(thing: str, vessel: bool, qualities: Iterable[str]) -> str:
    """The reply to examining the thing in hand; `qualities` are of hot, cool, clean, sliced."""
    if vessel:
        return f"This is a normal {thing}. In it, you see nothing."
    states = [word for word in ("hot", "cool", "clean") if word in qualities]
    words = ["cold"] if states == ["cool"] and "sliced" not in qualities else [" and ".join(states)]
    said = " ".join(filter(None, [*words, "sliced" if "sliced" in qualities else ""]))
    return f"This is a {said} {thing}." if said else f"There's nothing special about {thing}."


# Parsing

THING = r"[a-z]+ \d+"
FIRST = re.compile(r"you see (?P<places>.*)\.\s+Your task is to: (?P<task>.*)\.")
ARRIVAL = re.compile(r"You arrive at [\w ]+\. ")
SHOWN = re.compile(
    rf"(?:You open the [\w ]+\. )?(?:On the|The) (?P<place>{THING})(?: is open\. In it)?, you see (?P<things>.*)\."
)
SHUT = re.compile(rf"The (?P<place>{THING}) is closed\.|You close the (?P<closed>{THING})\.")
DONE = re.compile(
    rf"You (?P<verb>pick up|put|move|heat|cool|clean) the (?P<thing>{THING}) (?:from|in/on|to|using) the (?P<place>{THING})\."
)
LIT = re.compile(rf"You turn on the (?P<lamp>{THING})\.")
NAMES = re.compile(rf"an? ({THING})")
TASKS = [
    (re.compile(template.format(thing=r"(?P<thing>\w+)", place=r"(?P<place>\w+)")), name, phrasing)
    for name, pair in TEMPLATES.items()
    for phrasing, template in enumerate(pair)
]


@lru_cache(maxsize=4096)
def names(text: str) -> tuple[str, ...]:
    """The places or things of a list, in order."""
    return tuple(NAMES.findall(text))


@lru_cache(maxsize=4096)
def first(text: str) -> tuple[tuple[str, ...], Goal]:
    """Places and goal, from the first observation. Raises ValueError for another text."""
    match = FIRST.search(text)
    for pattern, name, phrasing in TASKS if match else ():
        if task := pattern.fullmatch(match["task"]):  # type: ignore[index]
            return names(match["places"]), Goal(name, task["thing"], task["place"], phrasing)  # type: ignore[index]
    raise ValueError(f"no first observation of ALFWorld: {text!r}")


# What an action means in words, for the judge

COMMAND = re.compile(
    rf"go to (?P<goal>{THING})|(?P<alone>look|inventory)"
    rf"|(?P<at>open|close) (?P<there>{THING})|(?:examine|use) (?P<one>{THING})"
    rf"|(?P<verb>take|put|move|heat|cool|clean|slice) (?P<thing>{THING}) (?P<link>from|in/on|to|with) (?P<place>{THING})"
)


def resolve(observation: str, action: str, reply: str = "") -> str:
    """What the action did, in words; "" for no command, one about a place where the agent is not, and a look at a closed one.

    A name is written twice, `take mug mug1 from desk desk1`, so that its number cannot be mistaken for another's.
    """
    command = COMMAND.fullmatch(action.strip())
    if command is None or (command["one"] and SHUT.fullmatch(reply)):
        return ""
    here, there = _here(observation), command["there"] or command["place"]
    if here and there and there != here and command["verb"] != "slice":
        return ""
    return re.sub(r"([a-z]+) (\d+)", r"\1 \1\2", action.strip())


@lru_cache(maxsize=4096)
def _here(observation: str) -> str | None:
    """The agent's place by an observation; None if it does not say."""
    text = ARRIVAL.sub("", observation)
    for pattern in (SHOWN, SHUT, DONE):
        if match := pattern.fullmatch(text):
            return match.groupdict().get("place") or match["closed"]
    return None

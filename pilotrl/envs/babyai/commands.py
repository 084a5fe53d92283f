"""The text actions that are possible in a view, each with its moves, and the replies to those that are not."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from pilotrl.envs.babyai.view import DROP, FORWARD, LEFT, PICKUP, RIGHT, TOGGLE, Cell, Paths, Thing, View, Way

UNKNOWN = "The action is not recognized. Please check valid actions."
UNCHANGED = "No change in state."
LIST = "check available actions"


class Commands(NamedTuple):
    """The possible actions, and the replies to known actions that are not possible."""

    ways: dict[str, Way]
    refused: dict[str, str]


def commands(view: View) -> Commands:
    """All actions that are possible now, in AgentGym's order."""
    ways, refused = {"turn left": Way([LEFT]), "turn right": Way([RIGHT])}, dict[str, str]()
    barrier = view.barrier()
    if barrier is None or barrier[1] > 1:
        ways["move forward"] = Way([FORWARD])
    else:
        refused["move forward"] = "There is a barrier in front of you, you can't move forward."
    things = [(cell, thing) for cell, thing in view.things() if thing.kind != "wall"]
    paths = Paths(view)
    found = Commands(ways, refused)
    if view.carrying is None:
        _each(found, "pickup", [pair for pair in things if pair[1].kind != "door"], paths, [PICKUP])
    _drop(found, view)
    count: dict[str, int] = {}
    for cell, thing in things:
        if thing.kind == "door":
            count[thing.name] = count.get(thing.name, 0) + 1
            _door(found, cell, thing, count, paths, view.carrying)
    _each(found, "go to", things, paths, [])
    ways[LIST] = Way([])
    return found


def _each(found: Commands, verb: str, things: list[tuple[Cell, Thing]], paths: Paths, last: list[int]) -> None:
    """Add a verb for each reachable thing; only those get a number, as in AgentGym."""
    count: Counter[str] = Counter()
    for cell, thing in things:
        name = f"{thing.name} {count[thing.name] + 1}"
        moves = paths.to(cell)
        if moves is None:
            found.refused[f"{verb} {name}"] = f"You cannot {verb} {name}, as there is no path leading to it."
        else:
            count[thing.name] += 1
            found.ways[f"{verb} {name}"] = Way(moves + last, cell)


def _drop(found: Commands, view: View) -> None:
    front = view.seen.get(view.pose.front)
    if view.carrying is None:
        found.refused["drop"] = "You cannot drop the object, as you are not carrying anything."
    elif front and front.kind != "door":
        found.refused["drop"] = "You cannot drop the object, as there is already an object in front of you."
    else:
        found.ways["drop"] = Way([DROP], view.pose.front)


def _door(
    found: Commands, cell: Cell, door: Thing, count: dict[str, int], paths: Paths, carrying: Thing | None
) -> None:
    """Add actions for going through a door; a closed one is opened first, a locked one needs its key."""
    name = f"{door.name} {count[door.name]}"
    verb = "go through" if door.state == "open" else "toggle and go through"
    if door.state == "closed":
        shut = f"You cannot go through {name}, as it is closed. You should toggle it first."
        found.refused[f"go through {name}"] = shut
    if door.state == "locked" and (carrying is None or carrying.kind != "key"):
        found.refused[f"{verb} {name}"] = f"You cannot {verb} {name}, as you are not carrying a key."
    elif door.state == "locked" and carrying and carrying.color != door.color:
        other = "the color of the key you are carrying does not match the color of door"
        found.refused[f"{verb} {name}"] = f"You cannot {verb} {name}, as {other}."
    elif (moves := paths.to(cell, onto=door.state == "open")) is None:
        shown = name if door.state == "open" else f"{door.name} {count}"  # a mistake of AgentGym, kept for its agents
        found.refused[f"{verb} {name}"] = f"You cannot {verb} {shown}, as there is no path leading to it."
    else:
        found.ways[f"{verb} {name}"] = Way(moves + ([] if door.state == "open" else [TOGGLE, FORWARD]), cell)
        if not moves and door.state != "open":
            found.ways["toggle"] = Way([TOGGLE], cell)

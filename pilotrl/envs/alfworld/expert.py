"""A scripted player. One rule says what to do next from what is known; a plan is that rule, followed in the mind.

It knows its notes and common sense (where things of a kind usually are, what may be put where), never the room itself. In
the mind, the next place that it looks into has what it looks for.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from pilotrl.envs.alfworld.belief import Notes
from pilotrl.envs.alfworld.facts import OPENABLE, TOOLS, can_hold, kind, usual
from pilotrl.envs.alfworld.text import Wording
from pilotrl.envs.alfworld.world import DONE_BY

HORIZON = 40
"""Steps of a plan, at most."""
HABIT = 8.0
"""How much likelier a thing is in a kind of place where it usually is than in another that can hold it."""
IMAGINED = "?"
"""Ends the name of a thing that was not seen yet."""
DEEDS = {"clean": "wash", "heat": "warm", "cool": "chill"}


class Move(NamedTuple):
    """One turn: what is done with which thing at which place."""

    verb: str
    thing: str = ""
    place: str = ""


class AlfWorldExpert:
    """Looks where the thing likely is, takes it, treats it, and brings it where it is wanted."""

    def __init__(self, notes: Notes, wording: Wording) -> None:
        self.notes, self.wording = notes, wording

    def plan(self) -> list[str]:
        """Steps from the next turn to the end; what was not seen yet is called by its kind."""
        notes, steps = self.notes.copy(), list[str]()
        while not _finished(notes) and len(steps) < HORIZON:
            move = _next(notes)
            steps.append(_step(move))
            if move.verb == "look":  # nowhere left to look: nothing to plan on
                break
            _imagine(notes, move)
        return steps

    def action(self) -> str:
        """The next action. RuntimeError where nothing is left to do."""
        if _finished(self.notes):
            raise RuntimeError("the episode has ended: there is no next action")
        return self._command(_next(self.notes))

    def detour(self) -> str | None:
        """Look around wherever one has come to, though arriving told what is there."""
        return "look" if self.notes.at != self.notes.faced else None

    def _command(self, move: Move) -> str:
        verb, thing, place = move
        if verb in TOOLS:
            return f"{verb} {thing} with {place}"
        if verb == "take":
            return f"take {thing} from {place}"
        if verb == "put":
            return self.wording.put.format(thing=thing, place=place)
        return {"check": "go to ", "go": "go to ", "open": "open ", "use": "use "}.get(verb, verb) + (thing or place)


def _step(move: Move) -> str:
    """A move in words that are not those of its action."""
    verb, thing, place = move
    name = f"a {kind(thing)}" if verb == "take" and thing.endswith(IMAGINED) else thing.rstrip(f" {IMAGINED}")
    if verb in DEEDS:
        return f"{DEEDS[verb]} {name} in {place}"
    return {
        "check": f"check {place}",
        "go": f"walk to {place}",
        "open": f"look inside {place}",
        "take": f"get {name}",
        "put": f"place {name} {'in' if kind(place) in OPENABLE else 'on'} {place}",
        "use": f"switch on {name}",
        "look": "survey the room",
    }[verb]


def _finished(notes: Notes) -> bool:
    """Is what was asked for so, as far as is known?"""
    goal = notes.goal
    if goal.type == "light":
        return (
            any(_there(notes, lamp) for lamp in notes.lit) and notes.hand is not None and kind(notes.hand) == goal.thing
        )
    need = 2 if goal.type == "two" else 1
    return any(len(_ready(notes, place)) >= need for place in notes.inside if kind(place) == goal.place)


def _ready(notes: Notes, place: str) -> list[str]:
    """Wanted things in a place that need nothing more."""
    return [
        thing for thing in notes.inside.get(place, ()) if kind(thing) == notes.goal.thing and _treated(notes, thing)
    ]


def _treated(notes: Notes, thing: str) -> bool:
    quality = DONE_BY.get(notes.goal.type)
    return quality is None or (thing, quality) in notes.qualities


def _there(notes: Notes, thing: str) -> bool:
    return notes.at is not None and thing in notes.inside.get(notes.at, ())


def _next(notes: Notes) -> Move:
    """What an efficient player does now."""
    if notes.hand is None:
        return _fetch(notes)
    if kind(notes.hand) != notes.goal.thing:
        return _put_away(notes, notes.hand)
    if not _treated(notes, notes.hand):
        return _treat(notes, notes.hand)
    return _light(notes) if notes.goal.type == "light" else _deliver(notes, notes.hand)


def _fetch(notes: Notes) -> Move:
    """Take a wanted thing: one that was seen, the easiest first, or look for one."""
    target = _target(notes) if notes.goal.type == "two" else None
    seen = {thing: place for thing, place in notes.where(notes.goal.thing).items() if place != target}
    if not seen:
        return _search(notes, notes.goal.thing)
    thing = min(seen, key=lambda thing: (_effort(notes, seen[thing]) - 2 * _treated(notes, thing), thing))
    return _at(notes, seen[thing], Move("take", thing, seen[thing]))


def _treat(notes: Notes, thing: str) -> Move:
    tools = [place for place in notes.reachable() if kind(place) == TOOLS[notes.goal.type]]
    if not tools:
        return Move("look")
    place = min(tools, key=lambda place: (place != notes.at, _number(place)))
    return Move(notes.goal.type, thing, place) if place == notes.at else Move("go", place=place)


def _light(notes: Notes) -> Move:
    """With the thing in hand, to the lamp; lit or not, one has to be there."""
    lamps = notes.where(notes.goal.place)
    if not lamps:
        return _search(notes, notes.goal.place)
    lamp = min(lamps, key=lambda lamp: (lamps[lamp] != notes.at, lamp not in notes.lit, lamp))
    return Move("use", lamp) if lamps[lamp] == notes.at else Move("go", place=lamps[lamp])


def _deliver(notes: Notes, thing: str) -> Move:
    place = _target(notes)
    return _at(notes, place, Move("put", thing, place)) if place else Move("look")


def _target(notes: Notes) -> str | None:
    """Where the wanted things are brought: where one is already, else where it is the least effort."""
    goal = notes.goal
    able = [place for place in notes.reachable() if kind(place) == goal.place and notes.takes(place, goal.thing)]
    count = {place: len(_ready(notes, place)) if goal.type == "two" else 0 for place in able}
    begun = any(count.values())  # then the same one wherever one stands
    return min(
        able, key=lambda place: (-count[place], 0 if begun else _effort(notes, place), _number(place)), default=None
    )


def _put_away(notes: Notes, thing: str) -> Move:
    """Rid the hand of something that is not wanted: here if possible, else where it may be put with the least effort."""
    able = [place for place in notes.reachable() if can_hold(kind(place), kind(thing)) and notes.takes(place, thing)]
    if not able:
        return Move("look")
    place = min(able, key=lambda place: (_effort(notes, place), _number(place)))
    return _at(notes, place, Move("put", thing, place))


def _search(notes: Notes, wanted: str) -> Move:
    """Look into the place with the best chance for its effort among those not looked into yet."""
    left = [place for place in notes.reachable() if place not in notes.inside]
    if not left:
        return Move("look")
    place = min(left, key=lambda place: (-_chance(notes, place, wanted) / _effort(notes, place), _number(place)))
    return Move("open", place=place) if place == notes.at else Move("check", place=place)


def _chance(notes: Notes, place: str, wanted: str) -> float:
    """How likely a thing is there, up to a factor: kinds of place share it evenly, and so do the places of a kind.

    What is wanted in some kind of place is not there yet: nobody would ask for it.
    """
    if (wanted, kind(place)) == (notes.goal.thing, notes.goal.place):
        return 0.0
    weight = HABIT if kind(place) in usual(wanted) else float(can_hold(kind(place), wanted))
    return weight / _count(notes.places)[kind(place)]


@lru_cache(maxsize=1024)
def _count(places: tuple[str, ...]) -> Counter[str]:
    return Counter(map(kind, places))


def _effort(notes: Notes, place: str) -> int:
    """Turns until one can reach into a place."""
    return (place != notes.at) + notes.closed(place)


def _at(notes: Notes, place: str, move: Move) -> Move:
    """The move if one is at an open place, else what leads there."""
    if place != notes.at:
        return Move("go", place=place)
    return Move("open", place=place) if notes.closed(place) else move


@lru_cache(maxsize=4096)
def _number(place: str) -> tuple[int, str]:
    return int(place.partition(" ")[2]), place


def _imagine(notes: Notes, move: Move) -> None:
    """What a move leads to if all goes well."""
    verb, thing, place = move
    if verb == "open" or (verb in ("check", "go") and not notes.closed(place)):
        notes.show(place, notes.inside.get(place) or frozenset(_hoped(notes)))
    elif verb in ("check", "go"):
        notes.at = place
    elif verb == "use":
        notes.lit |= {thing}
    else:
        notes.carry_out(verb, thing, place)


def _hoped(notes: Notes) -> list[str]:
    """What one finds in the next place looked into: what one looks for, be it a wanted thing or the lamp."""
    goal, hand = notes.goal, notes.hand
    if hand is None:
        before = sum(thing.endswith(IMAGINED) for thing in notes.where(goal.thing))
        return [f"{goal.thing} {IMAGINED}{IMAGINED * before}"]
    return [f"{goal.place} {IMAGINED}"] if goal.type == "light" and kind(hand) == goal.thing else []

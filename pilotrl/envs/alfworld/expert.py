"""The scripted expert of ALFWorld. One rule gives the next move from the belief state; a plan simulates that rule.

It uses the belief state and common sense (where things of a kind usually are, what may be put where), never the room itself.
The simulation assumes that the next place it looks into has what it looks for.
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
"""Maximum number of steps of a plan."""
HABIT = 8.0
"""Odds that a thing is in a kind of place where it usually is, against another kind that can hold it."""
IMAGINED = "?"
"""Suffix of the name of a thing that was not seen yet."""
DEEDS = {"clean": "wash", "heat": "warm", "cool": "chill"}
WHAT = {
    "check": "check another place",
    "open": "look inside it",
    "take": "get what is wanted",
    "use": "switch it on",
    "look": "survey the room",
}
"""Loose steps that say the same whatever the task is."""


class Move(NamedTuple):
    """One action: what is done with which thing at which place."""

    verb: str
    thing: str = ""
    place: str = ""


class AlfWorldExpert:
    """The expert: looks where the thing likely is, takes it, treats it, and puts it at the target place."""

    def __init__(self, notes: Notes, wording: Wording) -> None:
        self.notes, self.wording = notes, wording

    def plan(self) -> list[str]:
        """Steps from the next turn to the end; things not seen yet are named by their kind."""
        return [step for step, *_ in self._steps()]

    def loose(self) -> list[str]:
        """The same steps without names of things and places."""
        return [step for _, step, _ in self._steps()]

    def equal(self, action: str) -> str:
        """Another unseen place, or the closed one here; another of the wanted things; another tool or place of the kind."""
        moves = [] if _finished(self.notes) else _choices(self.notes)
        found = (move for move in moves if self._serves(move, moves[0]) and self._command(move) == action)
        return next(map(_step, found), "")

    def _serves(self, move: Move, best: Move) -> bool:
        """Whether a move serves as well as the expert's: not one away from a place that it would open, nor to one left closed."""
        if best.verb != "check":
            return move.verb == best.verb
        return move == best or move.verb == "open" or not self.notes.shut.get(move.place, False)

    def subgoals(self) -> list[str]:
        """Get the thing, treat it, bring it to its place: what each step is for."""
        return [step for *_, step in self._steps()]

    def _steps(self) -> list[tuple[str, str, str]]:
        """Each step of the plan, in both wordings, and what it is for."""
        notes, steps = self.notes.copy(), list[tuple[str, str, str]]()
        while not _finished(notes) and len(steps) < HORIZON:
            move = _next(notes)
            steps.append((_step(move), _loose(notes, move), _subgoal(notes)))
            if move.verb == "look":  # nowhere left to look: no further steps are known
                break
            _imagine(notes, move)
        return steps

    def action(self) -> str:
        """The next action. Raises RuntimeError once the task is done."""
        if _finished(self.notes):
            raise RuntimeError("the episode has ended: there is no next action")
        return self._command(_next(self.notes))

    def thought(self) -> str:
        """Where the wanted thing is and what state it is in, as far as is known: `egg 1 in hand, not cool yet; for the table`."""
        notes, goal = self.notes, self.notes.goal
        if notes.hand is None:
            return _whereabouts(notes)
        if kind(notes.hand) != goal.thing:
            return f"{notes.hand} in hand, no {goal.thing}"
        quality = DONE_BY.get(goal.type, "")
        state = f", {'' if _treated(notes, notes.hand) else 'not '}{quality}" if quality else ""
        lamps = notes.where(goal.place) if goal.type == "light" else {}
        lit = f"; {goal.place} seen at {next(iter(lamps.values()))}" if lamps else f"; for the {goal.place}"
        return f"{notes.hand} in hand{state}{lit}"

    def detour(self) -> str | None:
        """A `look` at every new place, although arriving there has shown its things."""
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


def _whereabouts(notes: Notes) -> str:
    """Where the wanted thing was seen, other than where it belongs, or that it was not."""
    goal = notes.goal
    there = sum(len(_ready(notes, place)) for place in notes.inside if kind(place) == goal.place)
    seen = {thing: place for thing, place in notes.where(goal.thing).items() if kind(place) != goal.place}
    counted = f"; {there} of 2 in {goal.place}" if goal.type == "two" else ""
    if seen:
        thing, place = next(iter(seen.items()))
        return f"{thing} seen at {place}{counted}"
    here = f"; {notes.at} is closed" if notes.closed(notes.at) else f"; not at {notes.at}" if notes.at else ""
    return f"no {goal.thing} yet, {len(notes.inside)} places seen{here}{counted}"


def _step(move: Move) -> str:
    """A move as a plan step, in other words than those of its action."""
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


def _loose(notes: Notes, move: Move) -> str:
    """A move as a loose plan step: what it is for, without names of things and places."""
    hand, goal = notes.hand, notes.goal
    if move.verb in WHAT:
        return WHAT[move.verb]
    if hand is not None and kind(hand) != goal.thing:
        return "walk to where this can stay" if move.verb == "go" else "get rid of this"
    if move.verb in TOOLS:
        return f"{DEEDS[move.verb]} it"
    if move.verb == "put":
        return "place it where it belongs"
    if hand is None:
        return "walk to what is wanted"
    if not _treated(notes, hand):
        return f"walk to where one can {DEEDS[goal.type]} it"
    return "walk to the light" if goal.type == "light" else "walk to where it belongs"


def _subgoal(notes: Notes) -> str:
    """What the next moves are for, with the kinds of thing and place that the task names."""
    hand, goal = notes.hand, notes.goal
    if hand is None:
        return f"get a {goal.thing}"
    if kind(hand) != goal.thing:
        return f"put down the {kind(hand)}"
    if not _treated(notes, hand):
        return f"{DEEDS[goal.type]} the {goal.thing}"
    if goal.type == "light":
        return f"look at the {goal.thing} under the {goal.place}"
    return f"place the {goal.thing} {'in' if goal.place in OPENABLE else 'on'} the {goal.place}"


def _finished(notes: Notes) -> bool:
    """Whether the task is done, as far as is known."""
    goal = notes.goal
    if goal.type == "light":
        return (
            any(_there(notes, lamp) for lamp in notes.lit) and notes.hand is not None and kind(notes.hand) == goal.thing
        )
    need = 2 if goal.type == "two" else 1
    return any(len(_ready(notes, place)) >= need for place in notes.inside if kind(place) == goal.place)


def _ready(notes: Notes, place: str) -> list[str]:
    """Wanted things in a place that need no further treatment."""
    return [
        thing for thing in notes.inside.get(place, ()) if kind(thing) == notes.goal.thing and _treated(notes, thing)
    ]


def _treated(notes: Notes, thing: str) -> bool:
    quality = DONE_BY.get(notes.goal.type)
    return quality is None or (thing, quality) in notes.qualities


def _there(notes: Notes, thing: str) -> bool:
    return notes.at is not None and thing in notes.inside.get(notes.at, ())


def _next(notes: Notes) -> Move:
    """The next move of an efficient agent."""
    return _choices(notes)[0]


def _choices(notes: Notes) -> list[Move]:
    """The moves that get what is needed next, the most efficient first."""
    if notes.hand is None:
        return _fetch(notes)
    if kind(notes.hand) != notes.goal.thing:
        return _put_away(notes, notes.hand)
    if not _treated(notes, notes.hand):
        return _treat(notes, notes.hand)
    return _light(notes) if notes.goal.type == "light" else _deliver(notes, notes.hand)


def _fetch(notes: Notes) -> list[Move]:
    """Take a wanted thing: of those seen the one with the least effort, or search for one."""
    target = _target(notes) if notes.goal.type == "two" else None
    seen = {thing: place for thing, place in notes.where(notes.goal.thing).items() if place != target}
    if not seen:
        return _search(notes, notes.goal.thing)
    things = sorted(seen, key=lambda thing: (_effort(notes, seen[thing]) - 2 * _treated(notes, thing), thing))
    return [_at(notes, seen[thing], Move("take", thing, seen[thing])) for thing in things]


def _treat(notes: Notes, thing: str) -> list[Move]:
    tools = [place for place in notes.reachable() if kind(place) == TOOLS[notes.goal.type]]
    tools.sort(key=lambda place: (place != notes.at, _number(place)))
    deed = notes.goal.type
    return [Move(deed, thing, place) if place == notes.at else Move("go", place=place) for place in tools] or [
        Move("look")
    ]


def _light(notes: Notes) -> list[Move]:
    """Carry the thing to a lamp, which must be in the same place, and switch it on."""
    seen = notes.where(notes.goal.place)
    if not seen:
        return _search(notes, notes.goal.place)
    lamps = sorted(seen, key=lambda lamp: (seen[lamp] != notes.at, lamp not in notes.lit, lamp))
    return [Move("use", lamp) if seen[lamp] == notes.at else Move("go", place=seen[lamp]) for lamp in lamps]


def _deliver(notes: Notes, thing: str) -> list[Move]:
    return [_at(notes, place, Move("put", thing, place)) for place in _targets(notes)] or [Move("look")]


def _target(notes: Notes) -> str | None:
    return next(iter(_targets(notes)), None)


def _targets(notes: Notes) -> list[str]:
    """Target places: if any has a wanted thing already, the one with the most; else all, the one with the least effort first."""
    goal = notes.goal
    able = [place for place in notes.reachable() if kind(place) == goal.place and notes.takes(place, goal.thing)]
    count = {place: len(_ready(notes, place)) if goal.type == "two" else 0 for place in able}
    if any(count.values()):  # then it does not depend on where the agent is
        return [min(able, key=lambda place: (-count[place], _number(place)))]
    return sorted(able, key=lambda place: (_effort(notes, place), _number(place)))


def _put_away(notes: Notes, thing: str) -> list[Move]:
    """Put down a thing that is not wanted, with the least effort."""
    able = [place for place in notes.reachable() if can_hold(kind(place), kind(thing)) and notes.takes(place, thing)]
    able.sort(key=lambda place: (_effort(notes, place), _number(place)))
    return [_at(notes, place, Move("put", thing, place)) for place in able] or [Move("look")]


def _search(notes: Notes, wanted: str) -> list[Move]:
    """Look into the unseen place with the highest probability for its effort."""
    chance = {place: _chance(notes, place, wanted) for place in notes.reachable() if place not in notes.inside}
    left = sorted(chance, key=lambda place: (-chance[place] / _effort(notes, place), _number(place)))
    return [Move("open", place=place) if place == notes.at else Move("check", place=place) for place in left] or [
        Move("look")
    ]


def _chance(notes: Notes, place: str, wanted: str) -> float:
    """Unnormalized probability that a thing is in a place: even over kinds of place, and over the places of a kind.

    It is 0 for the target kind of place, where the task would not ask to put it if it were there.
    """
    if (wanted, kind(place)) == (notes.goal.thing, notes.goal.place):
        return 0.0
    weight = HABIT if kind(place) in usual(wanted) else float(can_hold(kind(place), wanted))
    return weight / _count(notes.places)[kind(place)]


@lru_cache(maxsize=1024)
def _count(places: tuple[str, ...]) -> Counter[str]:
    return Counter(map(kind, places))


def _effort(notes: Notes, place: str) -> int:
    """Turns until the inside of a place can be reached."""
    return (place != notes.at) + notes.closed(place)


def _at(notes: Notes, place: str, move: Move) -> Move:
    """The move itself at an open place, else the move that leads there."""
    if place != notes.at:
        return Move("go", place=place)
    return Move("open", place=place) if notes.closed(place) else move


@lru_cache(maxsize=4096)
def _number(place: str) -> tuple[int, str]:
    return int(place.partition(" ")[2]), place


def _imagine(notes: Notes, move: Move) -> None:
    """Simulate a move, assuming that it succeeds."""
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
    """Things that a plan assumes in the next place looked into: a wanted thing, or the lamp."""
    goal, hand = notes.goal, notes.hand
    if hand is None:
        before = sum(thing.endswith(IMAGINED) for thing in notes.where(goal.thing))
        return [f"{goal.thing} {IMAGINED}{IMAGINED * before}"]
    return [f"{goal.place} {IMAGINED}"] if goal.type == "light" and kind(hand) == goal.thing else []

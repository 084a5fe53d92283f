"""The ALFWorld simulator: the state of a room, the actions that are possible in it, and their effects.

Possible actions follow ALFWorld's rules (a PDDL domain), including its oddities: going to the current place, and examining a
thing that is not in hand, are not possible.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pilotrl.envs.alfworld import text
from pilotrl.envs.alfworld.facts import KNIVES, LAMPS, SLICEABLE, TOOLS, TREATABLE, VESSELS, can_hold, kind
from pilotrl.envs.alfworld.text import Goal, Wording

DONE_BY = {"clean": "clean", "heat": "hot", "cool": "cool"}
"""Treatment -> quality that it gives."""


class Scene(NamedTuple):
    """The initial state of an episode: a room with its things, and the goal."""

    places: dict[str, tuple[str, ...]]
    """Place -> things in it at the start."""
    shut: frozenset[str]
    """Places that can be opened; all are closed at the start."""
    goal: Goal


class Deed(NamedTuple):
    """A possible action, parsed."""

    verb: str
    thing: str = ""
    place: str = ""


@dataclass(slots=True)
class World:
    """The simulator of one episode. `do` is the only way to change its state."""

    scene: Scene
    wording: Wording
    at: str | None = None
    hand: str | None = None
    inside: dict[str, set[str]] = field(init=False)
    open: set[str] = field(default_factory=set)
    qualities: dict[str, set[str]] = field(default_factory=dict)
    lit: set[str] = field(default_factory=set)
    ways: dict[str, Deed] = field(init=False)

    def __post_init__(self) -> None:
        self.inside = {place: set(things) for place, things in self.scene.places.items()}
        self.ways = {f"go to {place}": Deed("go", place=place) for place in self.inside}

    def opening(self) -> str:
        """The first observation."""
        return text.opening(self.scene.places, self.scene.goal)

    def possible(self) -> dict[str, Deed]:
        """Every action that is possible now."""
        deeds = {**self.ways, "inventory": Deed("inventory"), "look": Deed("look")}
        if self.at is not None:
            del deeds[f"go to {self.at}"]
            deeds[f"examine {self.at}"] = Deed("examine", place=self.at)
            deeds |= self._here(self.at)
        if self.hand is not None:
            deeds[f"examine {self.hand}"] = Deed("examine", self.hand)
        return deeds

    def _here(self, place: str) -> dict[str, Deed]:
        """Actions on the current place, and on the things there."""
        deeds: dict[str, Deed] = {}
        if place in self.scene.shut:
            verb = "close" if place in self.open else "open"
            deeds[f"{verb} {place}"] = Deed(verb, place=place)
        for thing in self.inside[place]:
            if kind(thing) in LAMPS:
                deeds[f"use {thing}"] = Deed("use", thing)
            elif self.hand is None and self._reachable(place):
                deeds[f"take {thing} from {place}"] = Deed("take", thing, place)
        return deeds | self._with(self.hand, place) if self.hand is not None else deeds

    def _with(self, thing: str, place: str) -> dict[str, Deed]:
        """Actions here with the thing in hand."""
        deeds: dict[str, Deed] = {}
        if self._reachable(place) and can_hold(kind(place), kind(thing)):
            deeds[self.wording.put.format(thing=thing, place=place)] = Deed("put", thing, place)
        for verb, tool in TOOLS.items():
            if kind(place) == tool and kind(thing) in TREATABLE[verb]:
                deeds[f"{verb} {thing} with {place}"] = Deed(verb, thing, place)
        if kind(thing) in KNIVES:
            whole = [other for other in self.inside[place] if kind(other) in SLICEABLE]
            deeds |= {f"slice {other} with {thing}": Deed("slice", other, thing) for other in whole}
        return deeds

    def _reachable(self, place: str) -> bool:
        return place not in self.scene.shut or place in self.open

    def do(self, deed: Deed) -> str:
        """Carries out a possible action; returns the reply."""
        verb, thing, place = deed
        if verb == "go":
            self.at = place
            return self.wording.arrive.format(place=place) + self._shown(place)
        if verb in ("open", "close"):
            (self.open.add if verb == "open" else self.open.discard)(place)
            return f"You {verb} the {place}." + (f" {self._shown(place)}" if verb == "open" else "")
        if verb in ("take", "put"):
            return self._carry(verb, thing, place)
        if verb in TOOLS:
            self._treat(verb, thing)
            return f"You {verb} the {thing} using the {place}."
        if verb == "use":
            self.lit.add(thing)
            return f"You turn on the {thing}."
        if verb == "slice":
            self.qualities.setdefault(thing, set()).add("sliced")
            return f"You sliced the {thing} with the {place}."
        return self._described(verb, thing, place)

    def _described(self, verb: str, thing: str, place: str) -> str:
        """The reply to actions that change nothing: looking, examining, the inventory."""
        if verb == "inventory":
            return f"You are carrying: a {self.hand}." if self.hand else "You are not carrying anything."
        if verb == "look":
            return f"You are facing the {self.at}. Next to it, you see nothing." if self.at else text.around("nothing")
        if place:
            return self._shown(place)
        return text.examined(thing, kind(thing) in VESSELS, self.qualities.get(thing, ()))

    def _carry(self, verb: str, thing: str, place: str) -> str:
        if verb == "take":
            self.inside[place].remove(thing)
            self.hand = thing
            return f"You pick up the {thing} from the {place}."
        self.inside[place].add(thing)
        self.hand = None
        return self.wording.done.format(thing=thing, place=place)

    def _treat(self, verb: str, thing: str) -> None:
        qualities = self.qualities.setdefault(thing, set())
        qualities.add(DONE_BY[verb])
        qualities -= {"heat": {"cool"}, "cool": {"hot"}}.get(verb, set())

    def _shown(self, place: str) -> str:
        return text.inside(place, self.inside[place], place in self.scene.shut, place in self.open)

    def solved(self) -> bool:
        """Whether the task is done."""
        goal = self.scene.goal
        if goal.type == "light":
            lit = any(kind(lamp) == goal.place and lamp in self.inside.get(self.at or "", ()) for lamp in self.lit)
            return lit and self.hand is not None and kind(self.hand) == goal.thing
        need = 2 if goal.type == "two" else 1
        quality = DONE_BY.get(goal.type)
        return any(
            sum(kind(thing) == goal.thing and self._has(thing, quality) for thing in things) >= need
            for place, things in self.inside.items()
            if kind(place) == goal.place
        )

    def _has(self, thing: str, quality: str | None) -> bool:
        return quality is None or quality in self.qualities.get(thing, ())

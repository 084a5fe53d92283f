"""What a player knows: made of the texts it was shown and the actions it took, and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pilotrl.envs.alfworld import text
from pilotrl.envs.alfworld.facts import OPENABLE, TOOLS, kind
from pilotrl.envs.alfworld.text import Goal
from pilotrl.envs.alfworld.world import DONE_BY

UNDONE_BY = {"hot": "cool", "cool": "heat"}


@dataclass(slots=True)
class Notes:
    """A player's view of a room. `read` takes in one turn."""

    places: tuple[str, ...]
    goal: Goal
    at: str | None = None
    hand: str | None = None
    inside: dict[str, frozenset[str]] = field(default_factory=dict)
    """Place -> what is there now; only of places looked into."""
    shut: dict[str, bool] = field(default_factory=dict)
    """Place -> closed now? Only of places that were visited and can be closed."""
    qualities: frozenset[tuple[str, str]] = frozenset()
    """(thing, quality) that one's own treatments gave."""
    lit: frozenset[str] = frozenset()
    faced: str | None = None
    """Where one was when one last looked."""
    refused: frozenset[tuple[str | None, str]] = frozenset()
    """(kind of thing, place) that did not go together; (where one was, place) where there was no way."""

    @classmethod
    def of(cls, observation: str) -> Notes:
        """From the first observation. ValueError where it is none."""
        places, goal = text.first(observation)
        return cls(places, goal)

    def copy(self) -> Notes:
        """One that can be changed without this one changing."""
        return replace(self, inside=dict(self.inside), shut=dict(self.shut))

    def read(self, action: str, reply: str) -> None:
        """Take in what an action led to."""
        self.faced = self.at if action == "look" else self.faced
        if reply == text.NOTHING_HAPPENS:
            self._failed(action)
        elif shown := text.SHOWN.fullmatch(said := text.ARRIVAL.sub("", reply)):
            self.show(shown["place"], frozenset(text.names(shown["things"])))
        elif closed := text.SHUT.fullmatch(said):
            self.at = closed["place"] or closed["closed"]
            self.shut[self.at] = True
        elif done := text.DONE.fullmatch(said):
            self.carry_out(done["verb"], done["thing"], done["place"])
        elif lit := text.LIT.fullmatch(said):
            self.lit |= {lit["lamp"]}

    def show(self, place: str, things: frozenset[str]) -> None:
        """One is at a place and sees what is there."""
        self.at, self.inside[place] = place, things
        if kind(place) in OPENABLE:
            self.shut[place] = False

    def carry_out(self, verb: str, thing: str, place: str) -> None:
        """Take, put or treat a thing at a place."""
        self.at = place
        if verb in TOOLS:
            quality = DONE_BY[verb]
            undone = {pair for pair in self.qualities if pair[0] == thing and UNDONE_BY.get(pair[1]) == verb}
            self.qualities = self.qualities - undone | {(thing, quality)}
            return
        taken = verb in ("pick up", "take")
        self.hand = thing if taken else None
        there = self.inside.get(place, frozenset())
        self.inside[place] = there - {thing} if taken else there | {thing}

    def _failed(self, action: str) -> None:
        """A way that did not lead anywhere is not tried again from here, nor a thing where it could not be put."""
        command = text.COMMAND.fullmatch(action.strip())
        if command is None:
            return
        if command["goal"] and command["goal"] != self.at:
            self.refused |= {(self.at, command["goal"])}
        held = self.hand is not None and command["thing"] == self.hand
        if command["verb"] in ("put", "move") and held and command["place"] == self.at and not self.closed(self.at):
            self.refused |= {(kind(command["thing"]), command["place"])}

    def closed(self, place: str | None) -> bool:
        """Would it have to be opened? Those that open are closed until seen otherwise."""
        return place is not None and self.shut.get(place, kind(place) in OPENABLE)

    def where(self, wanted: str) -> dict[str, str]:
        """Things of a kind that were seen -> where they are."""
        return {thing: place for place, things in self.inside.items() for thing in things if kind(thing) == wanted}

    def reachable(self) -> list[str]:
        """Places that can be gone to from here, as far as is known."""
        return [place for place in self.places if (self.at, place) not in self.refused]

    def takes(self, place: str, thing: str) -> bool:
        """Nothing is known that speaks against putting such a thing there."""
        return (kind(thing), place) not in self.refused

"""The belief state of the ALFWorld expert: what the observations and actions so far tell about the room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pilotrl.envs.alfworld import text
from pilotrl.envs.alfworld.facts import OPENABLE, TOOLS, kind
from pilotrl.envs.alfworld.text import Goal
from pilotrl.envs.alfworld.world import DONE_BY

UNDONE_BY = {"hot": "cool", "cool": "heat"}


@dataclass(slots=True)
class Notes:
    """The belief state. `read` updates it by one turn."""

    places: tuple[str, ...]
    goal: Goal
    at: str | None = None
    hand: str | None = None
    inside: dict[str, frozenset[str]] = field(default_factory=dict)
    """Place -> things there now; only of places whose inside was seen."""
    shut: dict[str, bool] = field(default_factory=dict)
    """Place -> closed now? Only of places that were visited and can be closed."""
    qualities: frozenset[tuple[str, str]] = frozenset()
    """(thing, quality) pairs from the agent's own treatments."""
    lit: frozenset[str] = frozenset()
    faced: str | None = None
    """Place at the last `look`."""
    refused: frozenset[tuple[str | None, str]] = frozenset()
    """(kind of thing, place) where it could not be put; (place, place) between which the agent could not go."""

    @classmethod
    def of(cls, observation: str) -> Notes:
        """From the first observation. Raises ValueError for another text."""
        places, goal = text.first(observation)
        return cls(places, goal)

    def copy(self) -> Notes:
        """A copy that can be changed independently."""
        return replace(self, inside=dict(self.inside), shut=dict(self.shut))

    def read(self, action: str, reply: str) -> None:
        """Update from the reply to an action."""
        self.faced = self.at if action == "look" else self.faced
        if reply == text.NOTHING_HAPPENS:
            self._failed(action)
        elif shown := text.SHOWN.fullmatch(rest := text.ARRIVAL.sub("", reply)):
            self.show(shown["place"], frozenset(text.names(shown["things"])))
        elif closed := text.SHUT.fullmatch(rest):
            self.at = closed["place"] or closed["closed"]
            self.shut[self.at] = True
        elif done := text.DONE.fullmatch(rest):
            self.carry_out(done["verb"], done["thing"], done["place"])
        elif lit := text.LIT.fullmatch(rest):
            self.lit |= {lit["lamp"]}

    def show(self, place: str, things: frozenset[str]) -> None:
        """The agent is at a place and sees its things."""
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
        things = self.inside.get(place, frozenset())
        self.inside[place] = things - {thing} if taken else things | {thing}

    def _failed(self, action: str) -> None:
        """Remember a failed action, so that it is not tried again in the same state."""
        command = text.COMMAND.fullmatch(action.strip())
        if command is None:
            return
        if command["goal"] and command["goal"] != self.at:
            self.refused |= {(self.at, command["goal"])}
        held = self.hand is not None and command["thing"] == self.hand
        if command["verb"] in ("put", "move") and held and command["place"] == self.at and not self.closed(self.at):
            self.refused |= {(kind(command["thing"]), command["place"])}

    def closed(self, place: str | None) -> bool:
        """Whether a place has to be opened first. Places that can be opened count as closed until seen open."""
        return place is not None and self.shut.get(place, kind(place) in OPENABLE)

    def where(self, wanted: str) -> dict[str, str]:
        """Things of a kind that were seen -> their places."""
        return {thing: place for place, things in self.inside.items() for thing in things if kind(thing) == wanted}

    def reachable(self) -> list[str]:
        """Places that the agent can go to from here, as far as is known."""
        return [place for place in self.places if (self.at, place) not in self.refused]

    def takes(self, place: str, thing: str) -> bool:
        """Whether such a thing may be put there, as far as is known."""
        return (kind(thing), place) not in self.refused

"""Our ALFWorld simulator against recorded games of the original engine: first observations, replies, whole games."""

from __future__ import annotations

import json
import lzma
import os
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from pilotrl.envs.alfworld import text
from pilotrl.envs.alfworld.belief import Notes
from pilotrl.envs.alfworld.facts import OPENABLE, kind
from pilotrl.envs.alfworld.text import WORDINGS
from pilotrl.envs.alfworld.world import Scene, World

DATA = Path(os.environ.get("PILOTRL_PARITY_DATA") or Path(__file__).parents[2] / "../shared/data") / "trajectories"
GAMES = DATA / "alfworld.jsonl.xz"

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def games(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Skips, and says so on the terminal even where reasons of skips are not shown."""
    if not GAMES.is_file():
        reason = f"NO PARITY DATA: {GAMES} is absent; set PILOTRL_PARITY_DATA to the folder that holds trajectories/"
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{reason}")
        pytest.skip(reason)
    return [json.loads(line) for line in lzma.decompress(GAMES.read_bytes()).decode().splitlines()]


def stripped(reply: str) -> str:
    """Without the sentence about one's arrival, which is left out of the papers' wording."""
    return text.ARRIVAL.sub("", reply)


def described(game: dict[str, Any]) -> Scene:
    """The room that a game's texts tell of: things where they were first seen, places that showed themselves."""
    notes = Notes.of(game["first_observation"])
    first: dict[str, tuple[str, ...]] = {}
    shut = set()
    for step in game["steps"]:
        said = stripped(step["observation"])
        if closed := text.SHUT.fullmatch(said):
            shut.add(closed["place"] or closed["closed"])
        if (shown := text.SHOWN.fullmatch(said)) and shown["place"] not in first:
            brought = notes.inside.get(shown["place"], frozenset())
            first[shown["place"]] = tuple(set(text.names(shown["things"])) - brought)
            if " is open. " in said:
                shut.add(shown["place"])
        notes.read(step["action"], said)
    went = {step["action"].removeprefix("go to ") for step in game["steps"]}
    there = [place for place in notes.places if place in first or place in shut or place not in went]
    assert all(kind(place) in OPENABLE for place in shut)
    return Scene({place: first.get(place, ()) for place in there}, frozenset(shut), notes.goal)


def is_reply(step: dict[str, str]) -> bool:
    """Whether our simulator gives this reply to that action in some state."""
    action, said = step["action"], stripped(step["observation"])
    worlds = [*worlds_of(action, said), *(world for at in (None, "desk 1") for world in examining(action, at))]
    replies = [world.do(deed) for world in worlds if (deed := world.possible().get(action))]
    return said in (text.NOTHING_HAPPENS, *replies)


def worlds_of(action: str, said: str) -> list[World]:
    """States that a reply may describe, just before the action."""
    shown, closed, done, lit = (pattern.fullmatch(said) for pattern in (text.SHOWN, text.SHUT, text.DONE, text.LIT))
    told = next((match for match in (shown, closed, done) if match), None)
    place = (told.groupdict().get("place") or told["closed"]) if told else "desk 1"
    taken = done is not None and done["verb"] == "pick up"
    named = [done["thing"]] if done and taken else [lit["lamp"]] if lit else []
    things = text.names(shown["things"]) if shown else tuple(named)
    opens = bool(closed) or " is open. " in said
    scene = Scene({place: things}, frozenset([place] if opens else []), text.Goal("place", "mug", "desk", 0))
    world = World(scene, WORDINGS["put"])
    world.at = None if action.startswith("go to ") else place
    world.hand = done["thing"] if done and not taken else None
    world.open = {place} if action.startswith("close ") or (shown and not action.startswith("open ")) else set()
    return [world]


def examining(action: str, at: str | None) -> list[World]:
    """Worlds in which an action that changes nothing can have different replies."""
    qualities = [set(some) for n in range(4) for some in combinations(("hot", "cool", "clean", "sliced"), n)]
    held = re.fullmatch(r"examine (.*)", action)
    found = []
    for quality in qualities:
        world = World(Scene({"desk 1": ()}, frozenset(), text.Goal("place", "mug", "desk", 0)), WORDINGS["put"])
        world.at, world.hand = at, held[1] if held else None
        world.qualities = {held[1]: quality} if held else {}
        found.append(world)
    return found


def test_parity_first_observations(games: list[dict[str, Any]], tell: Callable[[str], None]) -> None:
    """Each is produced word for word from the set of its places and its goal."""
    matched = 0
    for game in games:
        places, goal = text.first(game["first_observation"])
        scene = Scene(dict.fromkeys(sorted(places), ()), frozenset(), goal)
        matched += World(scene, WORDINGS["put"]).opening() == game["first_observation"]
    tell(f"alfworld first observations: {matched} / {len(games)} matched")
    assert matched == len(games)


def test_parity_replies(games: list[dict[str, Any]], tell: Callable[[str], None]) -> None:
    """Every reply is one that we give to that action."""
    steps = [step for game in games for step in game["steps"]]
    wrong = [step for step in steps if not is_reply(step)]
    tell(f"alfworld replies: {len(steps) - len(wrong)} / {len(steps)} are instances of ours")
    assert not wrong, wrong[:5]


def test_parity_games(games: list[dict[str, Any]], tell: Callable[[str], None]) -> None:
    """Whole games in the room they tell of: every reply the same. (In the original, places may share a spot: going from one
    to the other does nothing there. Ours have a spot each.)"""
    matched, differing = 0, []
    for game in games:
        world = World(described(game), WORDINGS["put"])
        for step in game["steps"]:
            deed = world.possible().get(step["action"])
            ours = text.NOTHING_HAPPENS if deed is None else world.do(deed)
            if ours != stripped(step["observation"]):
                differing.append((game["game"], step, ours))
                break
        else:
            matched += 1
    tell(f"alfworld games: {matched} / {len(games)} identical in every reply; {differing[:5]}")
    assert matched >= 0.9 * len(games)

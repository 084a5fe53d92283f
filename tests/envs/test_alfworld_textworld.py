"""Our ALFWorld simulator against the original engine, on generated games: every reply, every possible action.

Needs ALFWorld's engine and its grammar, of 0.3 or of 0.4:
    pip install -e '.[alfworld]' && pip install --no-deps alfworld==0.3.3
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilotrl.envs import load
from pilotrl.envs.alfworld import facts, tasks
from pilotrl.envs.alfworld.belief import Notes
from pilotrl.envs.alfworld.env import AlfWorld
from pilotrl.envs.alfworld.expert import AlfWorldExpert
from pilotrl.envs.alfworld.facts import can_hold, kind
from pilotrl.envs.alfworld.generator import TYPES
from pilotrl.envs.alfworld.text import NOTHING_HAPPENS, TEMPLATES, WORDINGS, Goal
from pilotrl.envs.alfworld.world import Scene, World

GAMES = [("small", 0, 5), ("original", 5, 6)]
"""Fidelity and which tasks of each type: thirty small rooms, six whole ones."""
MOST = 20
"""Actions drawn at random before the expert finishes the game."""
NEEDED = ("microwave", "sinkbasin", "fridge")
"""Kinds of place, and of thing, that the rules name: they are declared in every room."""
KNIVES = ("knife", "butterknife")


@pytest.fixture(scope="module")
def logic(request: pytest.FixtureRequest) -> dict[str, str]:
    """ALFWorld's rules and grammar. Skips, and says so, where engine or grammar is not installed."""
    found = importlib.util.find_spec("alfworld")
    if found is None or found.origin is None or importlib.util.find_spec("fast_downward") is None:
        reason = "NO ALFWORLD ENGINE: pip install -e '.[alfworld]' && pip install --no-deps alfworld==0.3.3"
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{reason}")
        pytest.skip(reason)
    data = Path(found.origin).parent / "data"
    return {"pddl_domain": (data / "alfred.pddl").read_text(), "grammar": (data / "alfred.twl2").read_text()}


def identity(name: str) -> str:
    """An id from which ALFWorld makes our name: of a kind, the lowest number comes last."""
    what, number = name.split()
    whole = what.removesuffix("basin")
    return f"{whole}_bar_{1000 - int(number)}" + ("" if whole == what else f"_bar_{what}")


def spot(scene: Scene, place: str) -> str:
    """The location of a place: each has its own."""
    return f"loc_bar_{1000 + list(scene.places).index(place)}"


def facts_of(scene: Scene) -> Iterator[str]:
    """What is so at the start, in PDDL."""
    places = {kind(place) for place in scene.places}
    things = {kind(thing) for inside in scene.places.values() for thing in inside}
    yield from (
        f"canContain {p}Type {t}Type" for p in places for t in things if can_hold(p, t) and t not in facts.LAMPS
    )
    yield "atLocation agent1 middle"
    for place, inside in scene.places.items():
        yield from (
            f"receptacleType {identity(place)} {kind(place)}Type",
            f"receptacleAtLocation {identity(place)} {spot(scene, place)}",
        )
        yield from [f"openable {identity(place)}"] * (place in scene.shut)
        for thing in inside:
            yield from (
                f"inReceptacle {identity(thing)} {identity(place)}",
                f"objectAtLocation {identity(thing)} {spot(scene, place)}",
            )
            yield from (f"{said} {identity(thing)}" for said in qualities(kind(thing)))
            yield f"objectType {identity(thing)} {kind(thing)}Type"


def qualities(thing: str) -> Iterator[str]:
    yield "toggleable" if thing in facts.LAMPS else "pickupable"
    yield from (f"{verb}able" for verb, things in facts.TREATABLE.items() if thing in things)
    yield from ["sliceable"] * (thing in facts.SLICEABLE) + ["isReceptacleObject"] * (thing in facts.VESSELS)


def wanted(goal: Goal) -> str:
    """The goal, in PDDL."""
    done = {"clean": "(isClean ?o)", "heat": "(isHot ?o)", "cool": "(isCool ?o)"}.get(goal.type, "")
    if goal.type == "light":
        return (
            f"(and (exists (?l - object ?r - receptacle ?s - location) (and (objectType ?l {goal.place}Type) (isToggled ?l)"
            " (receptacleAtLocation ?r ?s) (atLocation agent1 ?s) (inReceptacle ?l ?r)))"
            f" (exists (?o - object) (and (objectType ?o {goal.thing}Type) (holds agent1 ?o))))"
        )
    other = f"(exists (?o2 - object) (and (not (= ?o ?o2)) (objectType ?o2 {goal.thing}Type) (inReceptacle ?o2 ?r)))"
    return (
        f"(exists (?r - receptacle ?o - object) (and (objectType ?o {goal.thing}Type) (receptacleType ?r {goal.place}Type)"
        f" (inReceptacle ?o ?r) {done} {other if goal.type == 'two' else ''}))"
    )


def game_of(scene: Scene, logic: dict[str, str]) -> dict[str, Any]:
    """A scene as one of ALFWorld's games."""
    places = [identity(place) for place in scene.places]
    things = [identity(thing) for inside in scene.places.values() for thing in inside]
    kinds = {kind(thing) for inside in scene.places.values() for thing in inside} | {scene.goal.thing, *KNIVES}
    objects = {
        "agent": ["agent1"],
        "receptacle": places,
        "location": ["middle", *(spot(scene, place) for place in scene.places)],
        "object": things,
        "rtype": sorted({f"{kind(place)}Type" for place in scene.places} | {f"{name}Type" for name in NEEDED}),
        "otype": sorted(f"{name}Type" for name in kinds | set(facts.LAMPS)),
    }
    declared = " ".join(f"{' '.join(names)} - {name}" for name, names in objects.items() if names)
    start = " ".join(f"({fact})" for fact in facts_of(scene))
    task = TEMPLATES[scene.goal.type][scene.goal.phrasing].format(thing=scene.goal.thing, place=scene.goal.place)
    return {
        "pddl_domain": logic["pddl_domain"],
        "grammar": logic["grammar"].replace("UNKNOWN GOAL", task),
        "pddl_problem": f"(define (problem ours) (:domain alfred) (:objects {declared}) (:init (= (total-cost) 0) {start})"
        f" (:goal {wanted(scene.goal)}))",
    }


def scenes(fidelity: str, kind_of_task: str) -> list[Scene]:
    env = load("alfworld", split="test", fidelity=fidelity)
    assert isinstance(env, AlfWorld)
    return [tasks.scene(env._source, task) for task in env.tasks if task.startswith(f"{kind_of_task}-")]


class Pair:
    """The same game in both engines. Whatever differs is an assertion that fails."""

    def __init__(self, scene: Scene, logic: dict[str, str]) -> None:
        from pilotrl.envs.alfworld.textworld import Game

        self.wording = WORDINGS["move" if "move {o} to {r}" in logic["grammar"] else "put"]
        self.ours, self.theirs = World(scene, self.wording), Game(game_of(scene, logic))
        assert self.theirs.opening() == self.ours.opening()
        self.notes, self.replies = Notes.of(self.ours.opening()), 1

    def do(self, action: str) -> None:
        possible = self.ours.possible()
        assert sorted(possible) == sorted(set(self.theirs.possible()) - {"help"})
        reply = self.ours.do(possible[action]) if action in possible else NOTHING_HAPPENS
        assert self.theirs.do(action) == reply, action
        assert self.theirs.solved() == self.ours.solved(), action
        self.notes.read(action, reply)
        self.replies += 1


@pytest.mark.parametrize("kind_of_task", TYPES)
@pytest.mark.parametrize(("fidelity", "first", "last"), GAMES, ids=[game[0] for game in GAMES])
def test_every_reply_is_that_of_the_original_engine(
    logic: dict[str, str], tell: Callable[[str], None], fidelity: str, first: int, last: int, kind_of_task: str
) -> None:
    draw, replies = random.Random(kind_of_task), 0
    for scene in scenes(fidelity, kind_of_task)[first:last]:
        pair = Pair(scene, logic)
        for _ in range(MOST):
            if not pair.ours.solved():
                legal = draw.choice(sorted(pair.ours.possible()))
                pair.do(legal if draw.random() < 0.8 else legal.replace("1", "2").replace("take", "put"))
        while not pair.ours.solved():
            pair.do(AlfWorldExpert(pair.notes, pair.wording).action())
        replies += pair.replies
    tell(f"alfworld against its engine, {fidelity} {kind_of_task}: {replies} / {replies} replies identical")


def test_original_games_run_in_the_original_engine(logic: dict[str, str], tmp_path: Path) -> None:
    scene = min(scenes("small", "place"), key=lambda scene: len(scene.places))
    for folder in ("train/a/b", "valid_seen/c/d", "valid_seen/movable/d"):
        (tmp_path / folder).mkdir(parents=True)
        game = game_of(scene, logic) | {"solvable": True}
        (tmp_path / folder / "game.tw-pddl").write_text(json.dumps(game))
    wording = "move" if "move {o} to {r}" in logic["grammar"] else "put"
    env = load("alfworld", engine="textworld", split="test", data_dir=str(tmp_path), wording=wording)
    assert list(env.tasks) == ["c/d"]
    said, info = env.reset()
    assert said == World(scene, WORDINGS[wording]).opening()
    assert info["par"] is None
    over = False
    while not over:
        assert env.expert is not None
        _, reward, terminated, truncated, info = env.step(env.expert.action())
        over = terminated or truncated
    assert (reward, info["score"], info["solved"]) == (1.0, 1.0, True)

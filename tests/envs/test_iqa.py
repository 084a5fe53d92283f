"""IQA: its texts, its tasks, and an expert that knows only what was observed."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest

from pilotrl.envs import Info, load
from pilotrl.envs.iqa import Iqa, env, generator
from pilotrl.envs.iqa.expert import IqaExpert, Notes
from pilotrl.envs.iqa.questions import ANSWERS, TEMPLATES, THINGS, Question, read
from pilotrl.envs.iqa.room import CONTAINERS, NOTHING_HAPPENS, Kitchen, Pose, Scene, Size, kind
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.types import UserError

SPLITS = ("train", "dev", "test", "unseen")
FIDELITIES = tuple(env.FIDELITY)


def iqa(**options: Any) -> Iqa:
    made = load("iqa", **options)
    assert isinstance(made, Iqa)
    return made


def scene() -> Scene:
    """Two squares by three: a table north, a closed fridge east, an open bin behind the agent."""
    furniture = {(0, 3): "table_1", (2, 1): "fridge_1", (0, -1): "garbagecan_1"}
    things = {"table_1": ("mug_1", "fork_1"), "fridge_1": ("egg_1",), "garbagecan_1": ("egg_2",)}
    return Scene(Size(2, 3, 2), Pose(0, 1, 0), furniture, things, "How many eggs are there in the room?", "2")


def test_the_texts() -> None:
    world = Kitchen(scene())
    assert world.look() == (
        "In front of you, you see a table_1 with a mug_1, a fork_1. On your right, you see a closed fridge_1. "
        "Free steps: 1 ahead, 0 left, 1 right, 1 behind."
    )
    assert world.possible() == ["move ahead", "turn left", "turn right"]  # the fridge is not in front
    assert world.do("turn right").startswith(
        "In front of you, you see a closed fridge_1. On your left, you see a table_1"
    )
    assert world.do("open fridge_1") == "You open the fridge_1. In it, you see a egg_1."
    assert "open fridge_1" not in world.possible()
    assert "you see a fridge_1 with a egg_1." in world.do("move ahead")
    assert world.do("turn right").endswith("Free steps: 1 ahead, 0 left, 1 right, 1 behind.")


@pytest.mark.parametrize("type_", TEMPLATES)
def test_a_question_is_read_as_it_was_meant(type_: str) -> None:
    for thing in THINGS:
        for container in CONTAINERS if type_ == "contains" else ("",):
            for phrasing in range(len(TEMPLATES[type_])):
                question = Question(type_, thing, container)
                assert read(question.text(phrasing)) == question


def test_any_answer_ends_an_episode_and_only_the_right_one_solves_it() -> None:
    world = iqa(split="test")
    for task in world.tasks[:30]:
        for answer in ANSWERS:
            world.reset(options={"task": task})
            text, reward, terminated, _, info = world.step(f"answer [{answer}]")
            assert terminated
            right = task.endswith(f"-{answer}")
            assert (reward, info["solved"]) == (float(right), right)
            assert text == ("You are right!" if right else "You are wrong!")


def test_every_listed_action_is_understood_and_no_other() -> None:
    world, draw = iqa(split="dev"), random.Random(0)
    for task in world.tasks[:30]:
        _, info = world.reset(options={"task": task})
        over = False
        while not over:
            before = info["actions"]
            action = draw.choice([*before[:-6], "open fridge_1", "open table_1", "answer True", "answer [4]", "move"])
            said, _, terminated, truncated, info = world.step(action)
            assert info["valid"] == (action in before) == (said != NOTHING_HAPPENS)
            over = terminated or truncated


# Tasks


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_there_are_tasks_enough_with_balanced_answers(fidelity: str) -> None:
    every: set[str] = set()
    for split in SPLITS:
        names = list(iqa(split=split, fidelity=fidelity).tasks)
        count = Counter((name.split("-")[0], name.rpartition("-")[2]) for name in names)
        assert len(names) == generator.SIZES[split]
        assert all(abs(count[key] / len(names) - share) < 0.01 for key, share in generator.SHARES.items())
        questions = {name.rpartition("-")[0] for name in names}
        assert not every & questions
        every |= questions


def test_unseen_kitchens_are_kitchens_of_their_own() -> None:
    def kitchens(split: str) -> set[str]:
        return {task.split("-")[-2] for task in iqa(split=split).tasks}

    assert len(kitchens("train")) == 25
    assert len(kitchens("unseen")) == 5
    assert not kitchens("unseen") & kitchens("train")
    assert kitchens("test") <= kitchens("train")


def test_tasks_are_the_same_on_every_machine() -> None:
    """A digest of ids and kitchens: it changes only where somebody means to change the tasks."""
    digest = sha256()
    for split in SPLITS:
        world = iqa(split=split)
        for task in world.tasks:
            made = generator.scene(world._source, task)
            digest.update(f"{task} {made.question} {made.start} {sorted(made.things.items())}\n".encode())
    assert digest.hexdigest()[:16] == "7cdb9b28748dd221"


def test_nothing_can_be_answered_at_once() -> None:
    """At the start something is hidden from nearly everyone, and the words of the question do not tell."""
    world, certain = iqa(split="test"), 0
    for task in world.tasks:
        world.reset(options={"task": task})
        assert world.expert is not None
        certain += world.expert.action().startswith("answer")
    assert certain < 0.15 * len(world.tasks)


def test_what_makes_it_harder_does() -> None:
    def par(**options: Any) -> float:
        world = iqa(split="test", max_turns=60, **options)
        return sum(world._par.values()) / len(world._par)

    base = par()
    assert par(floor=6, furniture=12) > base + 1
    assert par(view=1) > base + 0.5


@pytest.mark.parametrize("options", [{"floor": 1}, {"view": 0}, {"furniture": 99}, {"clutter": -1}, {"max_turns": 0}])
def test_values_that_make_no_kitchen_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"env.{next(iter(options))}="):
        iqa(**options)


# The expert


def played(world: Iqa, task: str, draw: random.Random, sloppy: int) -> Info:
    """Runs the expert after `sloppy` random actions other than answers; returns the last info."""
    _, info = world.reset(options={"task": task})
    over, turn = False, 0
    while not over:
        turn += 1
        assert world.expert is not None
        action = draw.choice([*info["actions"][: -len(ANSWERS)], "dance"]) if turn <= sloppy else world.expert.action()
        _, _, terminated, truncated, info = world.step(action)
        over = terminated or truncated
    return info | {"turns": turn}


@pytest.mark.parametrize("options", [{}, {"fidelity": "original"}, {"split": "unseen", "seed": 1}, {"view": 1}])
def test_the_expert_solves_every_task_in_par(options: dict[str, Any]) -> None:
    world = iqa(**{"split": "test", **options})
    for task in world.tasks:
        info = played(world, task, random.Random(0), 0)
        assert info["solved"], task
        assert info["turns"] == world._par[task]


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_the_expert_solves_every_task_after_random_actions(fidelity: str) -> None:
    world, draw = iqa(split="test", fidelity=fidelity, max_turns=60), random.Random(1)
    for task in world.tasks:
        assert played(world, task, draw, draw.choice((3, 10)))["solved"], task


def test_a_plan_has_one_step_an_action_and_never_says_the_action() -> None:
    world = iqa(split="dev")
    for task in world.tasks[:60]:
        _, info = world.reset(options={"task": task})
        left = 0
        over = False
        while not over:
            assert world.expert is not None
            plan = world.expert.plan()
            assert not [step for step in plan for action in info["actions"] if action in step]
            left = len(plan)
            _, _, terminated, truncated, info = world.step(world.expert.action())
            over = terminated or truncated
        assert left == 1


def hidden(scene: Scene, draw: random.Random) -> Scene:
    """The same kitchen, but what lies in it lies somewhere else, and the answer is another."""
    pieces = list(scene.furniture.values())
    things: dict[str, tuple[str, ...]] = {}
    for name in (thing for inside in scene.things.values() for thing in inside):
        piece = draw.choice(pieces)
        things[piece] = (*things.get(piece, ()), name)
    return scene._replace(things=things, answer="?")


def test_the_expert_knows_nothing_that_was_not_observed() -> None:
    """Two kitchens that look alike so far get the same plan, whatever is hidden in them."""
    world, draw, alike = iqa(split="dev", clutter=0), random.Random(4), 0
    for task in world.tasks:
        one = generator.scene(world._source, task)
        worlds = [Kitchen(each) for each in (one, hidden(one, draw))]
        texts = [f"{each.scene.question}\n{each.look()}" for each in worlds]
        notes = [Notes.of(text, one.size.view) for text in texts]
        while texts[0] == texts[1]:
            players = [IqaExpert(each) for each in notes]
            assert players[0].plan() == players[1].plan()
            action = players[0].action()
            assert action == players[1].action()
            alike += 1
            if action.startswith("answer"):
                break
            texts = [each.do(action) for each in worlds]
            for each, text in zip(notes, texts, strict=True):
                each.read(action, text)
    assert alike > 200


def test_a_plan_names_only_what_was_shown() -> None:
    world = iqa(split="dev", fidelity="original")
    for task in world.tasks[:60]:
        shown, over = world.reset(options={"task": task})[0], False
        while not over:
            assert world.expert is not None
            named = [
                step.removeprefix("look inside ").replace(" ", "_") for step in world.expert.plan() if "inside" in step
            ]
            assert all(name in shown for name in named)
            said, _, terminated, truncated, _ = world.step(world.expert.action())
            shown += said
            over = terminated or truncated


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_a_random_agent_stays_under_the_bound_of_the_page(fidelity: str) -> None:
    world, draw, solved = iqa(split="test", fidelity=fidelity), random.Random(5), 0
    for task in world.tasks:
        _, info = world.reset(options={"task": task})
        over = False
        while not over:
            _, _, terminated, truncated, info = world.step(draw.choice(info["actions"]))
            over = terminated or truncated
        solved += info["solved"]
    assert solved <= 0.25 * len(world.tasks)


# The judge


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_following_the_plan_is_graded_in_full_and_acting_at_random_is_not(fidelity: str) -> None:
    judge, draw, world = RuleJudge(resolve=None), random.Random(6), iqa(split="dev", fidelity=fidelity)
    grades: dict[bool, list[int]] = {True: [], False: []}
    for follows in grades:
        for task in world.tasks[:60]:
            said, info = world.reset(options={"task": task})
            over = False
            while not over:
                assert world.expert is not None
                step = world.expert.plan()[0]
                action = world.expert.action() if follows else draw.choice(info["actions"])
                grades[follows] += [grade or 0 for grade in judge.grade([(step, said, action)])]
                said, _, terminated, truncated, info = world.step(action)
                over = terminated or truncated
    assert set(grades[True]) == {2}
    assert sum(grades[False]) / 2 / len(grades[False]) < 0.3


@pytest.mark.parametrize(
    ("step", "action", "grade"),
    [
        ("look inside fridge 1", "open fridge_1", 2),
        ("look inside cabinet 1", "open cabinet_2", 1),
        ("look inside cabinet 1", "turn left", 0),
        ("look to the left", "turn right", 0),
        ("walk on ahead", "move ahead", 2),
        ("report 2", "answer [2]", 2),
        ("report 2", "answer [3]", 0),
        ("say that it is true", "answer [False]", 0),
        ("report the result", "answer [1]", 2),
        ("report the result", "turn left", 0),
    ],
)
def test_actions_are_judged_by_what_they_say(step: str, action: str, grade: int) -> None:
    assert RuleJudge(resolve=None).grade([(step, "", action)]) == [grade]


def test_kinds_are_those_of_names() -> None:
    assert kind("garbagecan_1") == "garbagecan"

"""ALFWorld: its rules, its texts, its tasks, and an expert that knows only what was observed."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest

from pilotrl.envs import Info, load
from pilotrl.envs.alfworld import generator, resolve, tasks, text
from pilotrl.envs.alfworld.belief import Notes
from pilotrl.envs.alfworld.env import FIDELITY, AlfWorld
from pilotrl.envs.alfworld.expert import AlfWorldExpert
from pilotrl.envs.alfworld.facts import LAMPS, can_hold, kind
from pilotrl.envs.alfworld.text import NAMES, WORDINGS, Goal
from pilotrl.envs.alfworld.world import Scene, World
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.types import UserError

SPLITS = ("train", "dev", "test", "unseen")


def alfworld(**options: Any) -> AlfWorld:
    env = load("alfworld", **options)
    assert isinstance(env, AlfWorld)
    return env


def source(env: AlfWorld) -> generator.Source:
    return env._source


# Rules and words

KITCHEN = {
    "cabinet 1": ("mug 1",),
    "countertop 1": ("apple 1", "bread 1", "knife 1", "mug 2"),
    "fridge 1": ("egg 1",),
    "microwave 1": (),
    "sinkbasin 1": (),
    "desk 1": ("desklamp 1", "book 1"),
}


def kitchen(goal: Goal | None = None, wording: str = "put") -> World:
    shut = frozenset({"cabinet 1", "fridge 1", "microwave 1"})
    return World(Scene(KITCHEN, shut, goal or Goal("heat", "mug", "cabinet", 0)), WORDINGS[wording])


def say(world: World, *actions: str) -> list[str]:
    """What is said to actions."""
    said = []
    for action in actions:
        deed = world.possible().get(action)
        said.append(text.NOTHING_HAPPENS if deed is None else world.do(deed))
    return said


def test_the_texts_are_those_of_the_original() -> None:
    world = kitchen()
    assert world.opening() == (
        "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a countertop 1, a desk 1, a fridge 1, "
        "a microwave 1, and a sinkbasin 1.\nYour task is to: put a hot mug in cabinet."
    )
    talk = {
        "look": "You are in the middle of a room. Looking quickly around you, you see nothing.",
        "inventory": "You are not carrying anything.",
        "go to cabinet 1": "The cabinet 1 is closed.",
        "examine cabinet 1": "The cabinet 1 is closed.",
        "open cabinet 1": "You open the cabinet 1. The cabinet 1 is open. In it, you see a mug 1.",
        "take mug 1 from cabinet 1": "You pick up the mug 1 from the cabinet 1.",
        "close cabinet 1": "You close the cabinet 1.",
        "look ": "You are facing the cabinet 1. Next to it, you see nothing.",
        "inventory ": "You are carrying: a mug 1.",
        "go to microwave 1": "The microwave 1 is closed.",
        "heat mug 1 with microwave 1": "You heat the mug 1 using the microwave 1.",
        "examine mug 1": "This is a normal mug 1. In it, you see nothing.",
        "go to countertop 1": "On the countertop 1, you see a apple 1, a bread 1, a knife 1, and a mug 2.",
        "put mug 1 in/on countertop 1": "You put the mug 1 in/on the countertop 1.",
        "examine countertop 1": "On the countertop 1, you see a apple 1, a bread 1, a knife 1, a mug 2, and a mug 1.",
        "go to sinkbasin 1": "On the sinkbasin 1, you see nothing.",
        "go to desk 1": "On the desk 1, you see a book 1, and a desklamp 1.",
        "use desklamp 1": "You turn on the desklamp 1.",
        "go to desk 1 ": "Nothing happens.",
        "take desklamp 1 from desk 1": "Nothing happens.",
    }
    assert dict(zip(talk, say(world, *(action.strip() for action in talk)), strict=True)) == talk


def test_the_wording_of_later_versions() -> None:
    said = say(
        kitchen(wording="move"), "go to countertop 1", "take mug 2 from countertop 1", "move mug 2 to countertop 1"
    )
    assert said[0].startswith("You arrive at countertop 1. On the countertop 1, you see a apple 1, ")
    assert said[1:] == ["You pick up the mug 2 from the countertop 1.", "You move the mug 2 to the countertop 1."]


@pytest.mark.parametrize(
    ("treatments", "said"),
    [
        ("", "There's nothing special about apple 1."),
        ("heat", "This is a hot apple 1."),
        ("cool", "This is a cold apple 1."),
        ("heat cool", "This is a cold apple 1."),
        ("cool heat", "This is a hot apple 1."),
        ("clean", "This is a clean apple 1."),
        ("clean cool", "This is a cool and clean apple 1."),
        ("clean heat", "This is a hot and clean apple 1."),
        ("slice", "This is a sliced apple 1."),
        ("slice cool", "This is a cool sliced apple 1."),
        ("slice heat clean", "This is a hot and clean sliced apple 1."),
    ],
)
def test_a_closer_look_tells_what_was_done_to_a_thing(treatments: str, said: str) -> None:
    world = kitchen()
    cut = ["take knife 1 from countertop 1", "slice apple 1 with knife 1", "put knife 1 in/on countertop 1"]
    say(world, "go to countertop 1", *(cut if "slice" in treatments else []), "take apple 1 from countertop 1")
    where = {"heat": "microwave 1", "cool": "fridge 1", "clean": "sinkbasin 1"}
    for name in treatments.replace("slice", "").split():
        assert say(world, f"go to {where[name]}", f"{name} apple 1 with {where[name]}")[1].startswith(
            f"You {name} the apple 1"
        )
    assert say(world, "examine apple 1") == [said]


@pytest.mark.parametrize(
    ("before", "action"),
    [
        ("go to cabinet 1", "take mug 1 from cabinet 1"),  # it is closed
        ("go to countertop 1", "take egg 1 from fridge 1"),  # elsewhere
        ("go to countertop 1; take mug 2 from countertop 1", "take apple 1 from countertop 1"),  # the hand is full
        ("go to countertop 1; take mug 2 from countertop 1; go to fridge 1", "put mug 2 in/on fridge 1"),  # closed
        ("go to countertop 1; take mug 2 from countertop 1; go to fridge 1", "clean mug 2 with fridge 1"),
        ("go to countertop 1; take knife 1 from countertop 1; go to microwave 1", "heat knife 1 with microwave 1"),
        ("go to countertop 1; take apple 1 from countertop 1; go to desk 1", "put apple 1 in/on desk 1"),  # not there
        ("go to countertop 1", "heat apple 1 with microwave 1"),
        ("go to countertop 1", "slice apple 1 with knife 1"),  # not in hand
        ("go to countertop 1", "examine apple 1"),
        ("go to countertop 1", "open countertop 1"),
        ("go to cabinet 1", "close cabinet 1"),
        ("", "open cabinet 1"),
        ("", "Go to cabinet 1"),
        ("", "go to cabinet 2"),
    ],
)
def test_what_is_not_possible_changes_nothing(before: str, action: str) -> None:
    world, other = kitchen(), kitchen()
    for each in (world, other):
        assert text.NOTHING_HAPPENS not in say(each, *filter(None, before.split("; ")))
    assert say(world, action) == [text.NOTHING_HAPPENS]
    assert world == other


GET = "go to countertop 1; take mug 2 from countertop 1; "
SHELVE = "go to cabinet 1; open cabinet 1; put mug 2 in/on cabinet 1"


@pytest.mark.parametrize(
    ("goal", "actions"),
    [
        ("place mug cabinet", GET + SHELVE),
        ("clean mug cabinet", f"{GET}go to sinkbasin 1; clean mug 2 with sinkbasin 1; {SHELVE}"),
        ("heat mug cabinet", f"{GET}go to microwave 1; heat mug 2 with microwave 1; {SHELVE}"),
        ("cool mug cabinet", f"{GET}go to fridge 1; cool mug 2 with fridge 1; {SHELVE}"),
        ("two mug cabinet", GET + SHELVE),  # the other one is there already
        ("light book desklamp", "go to desk 1; take book 1 from desk 1; use desklamp 1"),
        ("light book desklamp", "go to desk 1; use desklamp 1; take book 1 from desk 1"),
        ("light mug desklamp", f"go to desk 1; use desklamp 1; {GET}go to desk 1"),
    ],
)
def test_a_goal_is_reached_by_its_last_action_and_not_before(goal: str, actions: str) -> None:
    type_, thing, place = goal.split()
    there = {"cabinet 1": ("mug 1",) if type_ == "two" else ()}
    scene = kitchen(Goal(type_, thing, place, 0)).scene
    world = World(scene._replace(places=KITCHEN | there), WORDINGS["put"])
    for action in actions.split("; "):
        assert not world.solved(), action
        assert say(world, action) != [text.NOTHING_HAPPENS], action
    assert world.solved()


def test_heat_is_lost_in_the_fridge() -> None:
    world = kitchen()
    heated = f"{GET}go to microwave 1; heat mug 2 with microwave 1; go to fridge 1; cool mug 2 with fridge 1; {SHELVE}"
    say(world, *heated.split("; "))
    assert not world.solved()


def test_every_listed_action_is_understood_and_no_other() -> None:
    env, draw = alfworld(split="dev"), random.Random(0)
    for task in env.tasks[:30]:
        _, info = env.reset(options={"task": task})
        over = False
        while not over:
            before = info["actions"]
            action = draw.choice([*before, "take mug 1 from desk 1", "put mug 1 in/on shelf 1", "go to cabinet 9"])
            said, _, terminated, truncated, info = env.step(action)
            assert info["valid"] == (action in before) == (said != text.NOTHING_HAPPENS)
            assert before == sorted(set(before))
            over = terminated or truncated


# Tasks


@pytest.mark.parametrize("fidelity", FIDELITY)
def test_there_are_tasks_enough_in_the_proportions_of_the_original(fidelity: str) -> None:
    every: set[str] = set()
    for split in SPLITS:
        names = list(alfworld(split=split, fidelity=fidelity).tasks)
        counts = Counter(name.split("-")[0] for name in names)
        assert len(names) == generator.SIZES[split]
        assert all(abs(counts[name] / len(names) - n / 2420) < 0.006 for name, n in generator.TYPES.items())
        assert not every & set(names)
        every |= set(names)


@pytest.mark.parametrize("fidelity", FIDELITY)
def test_unseen_rooms_are_rooms_of_their_own(fidelity: str) -> None:
    def rooms(split: str) -> tuple[set[str], set[tuple[tuple[str, int], ...]]]:
        env = alfworld(split=split, fidelity=fidelity)
        return {task.split("-")[3] for task in env.tasks}, {
            tuple(room.counts.items()) for room in generator.rooms(source(env))
        }

    names, furniture = rooms("unseen")
    for split in ("train", "dev", "test"):
        others, seen = rooms(split)
        assert not names & others
        assert not furniture & seen
    assert rooms("test")[0] <= rooms("train")[0]


def test_tasks_are_the_same_on_every_machine() -> None:
    """A digest of ids and rooms: it changes only where somebody means to change the tasks."""
    digest = sha256()
    for split in SPLITS:
        env = alfworld(split=split)
        for task in env.tasks:
            scene = tasks.scene(source(env), task)
            digest.update(f"{task} {scene.goal} {sorted(scene.places.items())}\n".encode())
    assert digest.hexdigest()[:16] == "8d5cd017380e73b3"


@pytest.mark.parametrize("fidelity", FIDELITY)
def test_rooms_are_plausible(fidelity: str) -> None:
    env = alfworld(split="test", fidelity=fidelity)
    usual = lying = 0
    for task in env.tasks:
        scene = tasks.scene(source(env), task)
        goal, things = scene.goal, [thing for inside in scene.places.values() for thing in inside]
        assert len(scene.places) <= FIDELITY[fidelity]["places"]
        assert len(things) == len(set(things))
        for place, inside in scene.places.items():
            assert all(can_hold(kind(place), kind(thing)) for thing in inside)
            assert kind(place) != goal.place or all(kind(thing) != goal.thing for thing in inside)
        assert sum(kind(thing) == goal.thing for thing in things) >= (2 if goal.type == "two" else 1)
        assert not World(scene, WORDINGS["put"]).solved()
        places = {
            thing: kind(place) for place, inside in scene.places.items() for thing in inside if kind(thing) not in LAMPS
        }
        usual += sum(place in generator.usual(kind(thing)) for thing, place in places.items())
        lying += len(places)
    assert 0.7 < usual / lying < 0.95


def test_what_makes_it_harder_does() -> None:
    def par(**options: Any) -> float:
        env = alfworld(split="test", fidelity="small", max_turns=40, **options)
        turns = [env.reset(options={"task": task})[1]["par"] for task in env.tasks]
        return sum(turns) / len(turns)

    base = par()
    assert par(places=16) > base + 0.5
    assert par(surprises=1.0) > base + 0.5
    assert par(surprises=0.0) < base - 0.1
    things = [
        sum(map(len, tasks.scene(source(env), env.tasks[0]).places.values()))
        for env in (alfworld(), alfworld(clutter=3))
    ]
    assert things[1] > things[0]


# The expert


def played(env: AlfWorld, task: str, draw: random.Random, sloppy: int) -> Info:
    """Runs the expert after `sloppy` random actions; returns the last info."""
    _, info = env.reset(options={"task": task})
    over, turn = False, 0
    while not over:
        turn += 1
        assert env.expert is not None
        action = draw.choice([*info["actions"], "dance"]) if turn <= sloppy else env.expert.action()
        _, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
    return info | {"turns": turn}


@pytest.mark.parametrize("options", [{}, {"fidelity": "original"}, {"wording": "move"}, {"split": "unseen", "seed": 1}])
def test_the_expert_solves_every_task_in_par(options: dict[str, Any]) -> None:
    env = alfworld(**{"split": "test", **options})
    for task in env.tasks:
        info = played(env, task, random.Random(0), 0)
        assert info["solved"], task
        assert info["turns"] == env.reset(options={"task": task})[1]["par"]


@pytest.mark.parametrize("fidelity", FIDELITY)
def test_the_expert_solves_every_task_after_random_actions(fidelity: str) -> None:
    env, draw = (
        alfworld(split="test", fidelity=fidelity, max_turns=60 if fidelity == "small" else 100),
        random.Random(1),
    )
    for task in env.tasks:
        assert played(env, task, draw, draw.choice((5, 15, 30)))["solved"], task


def test_the_expert_gets_over_two_halves_in_two_places() -> None:
    """One pen in each of two drawers, when two are wanted in one: it must not carry them to and fro."""
    places = {"desk 1": ("pen 2", "pen 1"), "drawer 1": (), "drawer 2": ()}
    world = World(Scene(places, frozenset({"drawer 1", "drawer 2"}), Goal("two", "pen", "drawer", 0)), WORDINGS["put"])
    notes = Notes.of(world.opening())
    actions = []
    for i in (1, 2):
        actions += [
            "go to desk 1",
            f"take pen {i} from desk 1",
            f"go to drawer {i}",
            f"open drawer {i}",
            f"put pen {i} in/on drawer {i}",
        ]
    for action in actions:
        notes.read(action, world.do(world.possible()[action]))
    for _ in range(3):
        action = AlfWorldExpert(notes, world.wording).action()
        notes.read(action, world.do(world.possible()[action]))
    assert world.solved()


def test_what_did_not_work_is_tried_in_another_way() -> None:
    """As in the original, where some places share a spot, and some things cannot be put where one would think."""
    notes = Notes.of(
        kitchen(Goal("place", "apple", "cabinet", 0)).opening().replace("cabinet 1", "cabinet 2, a cabinet 1")
    )
    notes.read("go to countertop 1", "On the countertop 1, you see a apple 1.")
    notes.read("take apple 1 from countertop 1", "You pick up the apple 1 from the countertop 1.")
    expert = AlfWorldExpert(notes, WORDINGS["put"])
    assert expert.action() == "go to cabinet 1"
    notes.read("go to cabinet 1", text.NOTHING_HAPPENS)
    assert expert.action() == "go to cabinet 2"
    notes.read("go to cabinet 2", "The cabinet 2 is closed.")
    notes.read("open cabinet 2", "You open the cabinet 2. The cabinet 2 is open. In it, you see nothing.")
    assert expert.action() == "put apple 1 in/on cabinet 2"
    notes.read("put apple 1 in/on cabinet 2", text.NOTHING_HAPPENS)
    assert expert.action() == "go to cabinet 1"  # from here there may be a way


def test_a_plan_is_written_anew_where_a_place_has_not_what_was_hoped_for() -> None:
    scene = kitchen(Goal("cool", "mug", "cabinet", 0)).scene
    world = World(scene._replace(places=KITCHEN | {"cabinet 1": ()}), WORDINGS["put"])
    notes = Notes.of(world.opening())
    plans = []
    for action in ("", "go to countertop 1", "take mug 2 from countertop 1", "go to fridge 1"):
        if action:
            notes.read(action, world.do(world.possible()[action]))
        plans.append(AlfWorldExpert(notes, world.wording).plan())
    rest = [
        "walk to fridge 1",
        "chill {} in fridge 1",
        "walk to cabinet 1",
        "look inside cabinet 1",
        "place {} in cabinet 1",
    ]
    assert plans[0] == ["check countertop 1", "get a mug", *(step.format("mug") for step in rest)]
    assert plans[1] == ["get mug 2", *(step.format("mug 2") for step in rest)]
    assert plans[3] == [step.format("mug 2") for step in rest[1:]]
    say(world, "go to countertop 1", "put mug 2 in/on countertop 1")
    bare = World(scene._replace(places=KITCHEN | {"cabinet 1": (), "countertop 1": ()}), WORDINGS["put"])
    notes = Notes.of(bare.opening())
    notes.read("go to countertop 1", *say(bare, "go to countertop 1"))
    steps = AlfWorldExpert(notes, bare.wording).plan()
    assert steps[0].startswith("check ")
    assert "countertop 1" not in " ".join(steps)


def test_a_plan_has_one_step_an_action_and_never_says_the_action() -> None:
    env, draw = alfworld(split="dev"), random.Random(2)
    for task in env.tasks[:60]:
        _, info = env.reset(options={"task": task})
        over = False
        while not over:
            assert env.expert is not None
            plan = env.expert.plan()
            assert not [step for step in plan for action in info["actions"] if action in step and action != "look"]
            assert not [step for step in plan if "inside" not in step and "look" in step]
            surprised = draw.random() < 0.2
            action = draw.choice(info["actions"]) if surprised else env.expert.action()
            _, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            if info["solved"] and not surprised:
                assert len(plan) == 1


def test_a_plan_names_only_what_was_shown() -> None:
    env, draw = alfworld(split="dev", fidelity="original"), random.Random(3)
    for task in env.tasks[:60]:
        said, info = env.reset(options={"task": task})
        shown, over = set(NAMES.findall(said)), False
        while not over:
            assert env.expert is not None
            named = {
                " ".join(pair)
                for step in env.expert.plan()
                for pair in zip(step.split(), step.split()[1:], strict=False)
            }
            assert {name for name in named if name[-1].isdigit()} <= shown
            said, _, terminated, truncated, info = env.step(
                draw.choice(info["actions"]) if draw.random() < 0.3 else env.expert.action()
            )
            shown |= set(NAMES.findall(said))
            over = terminated or truncated


def strewn(scene: Scene, draw: random.Random) -> Scene:
    """The same room and goal, but everything lies somewhere else."""
    things = [thing for inside in scene.places.values() for thing in inside]
    there: dict[str, tuple[str, ...]] = dict.fromkeys(scene.places, ())
    for thing in things:
        place = draw.choice(list(scene.places))
        there[place] = (*there[place], thing)
    return scene._replace(places=there)


def test_the_expert_knows_nothing_that_was_not_observed() -> None:
    """Two rooms with the same observations so far get the same plan, whatever is hidden in them."""
    env, draw, alike = alfworld(split="dev", fidelity="small"), random.Random(4), 0
    for task in env.tasks[:100]:
        scene = tasks.scene(source(env), task)
        worlds = [World(each, WORDINGS["put"]) for each in (scene, strewn(scene, draw))]
        notes = [Notes.of(world.opening()) for world in worlds]
        for _ in range(env.max_turns):
            players = [AlfWorldExpert(each, WORDINGS["put"]) for each in notes]
            assert players[0].plan() == players[1].plan()
            assert players[0].action() == players[1].action()
            alike += 1
            action = draw.choice(sorted(worlds[0].possible())) if draw.random() < 0.4 else players[0].action()
            replies = [say(world, action)[0] for world in worlds]
            if replies[0] != replies[1] or worlds[0].solved():
                break
            for each in notes:
                each.read(action, replies[0])
    assert alike > 150


def test_the_belief_state_holds_nothing_that_was_not_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    env = alfworld(split="dev")
    env.reset(options={"task": env.tasks[0]})
    assert env.expert is not None
    notes, scene = env.expert.notes, tasks.scene(source(env), env.tasks[0])
    monkeypatch.setattr(tasks, "scene", lambda *_: strewn(scene, random.Random(0)))
    env.reset(options={"task": env.tasks[0]})
    assert env.expert.notes == notes


@pytest.mark.parametrize("fidelity", FIDELITY)
def test_a_random_agent_stays_under_the_bound_of_the_page(fidelity: str) -> None:
    env, draw, solved = alfworld(split="test", fidelity=fidelity), random.Random(5), 0
    for task in env.tasks:
        solved += played(env, task, draw, env.max_turns)["solved"]
    assert solved <= 0.02 * len(env.tasks)


# The judge


@pytest.mark.parametrize("options", [{}, {"fidelity": "original"}, {"wording": "move"}])
def test_following_the_plan_is_graded_in_full_and_acting_at_random_is_not(options: dict[str, Any]) -> None:
    judge, draw = RuleJudge(resolve=resolve), random.Random(6)
    env = alfworld(split="dev", **options)
    grades: dict[bool, list[int]] = {True: [], False: []}
    for follows in grades:
        for task in env.tasks[:60]:
            said, info = env.reset(options={"task": task})
            over = False
            while not over:
                assert env.expert is not None
                step = env.expert.plan()[0]
                action = env.expert.action() if follows else draw.choice(info["actions"])
                grades[follows] += [grade or 0 for grade in judge.grade([(step, said, action)])]
                said, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
    assert set(grades[True]) == {2}
    assert sum(grades[False]) / 2 / len(grades[False]) < 0.2


SHOWN = "On the countertop 1, you see a apple 2, a apple 1, and a mug 1."


@pytest.mark.parametrize(
    ("step", "action", "grade"),
    [
        ("get apple 1", "take apple 1 from countertop 1", 2),
        ("get apple 1", "take apple 2 from countertop 1", 1),  # its number, and not that of the place
        ("get apple 1", "take mug 1 from countertop 1", 0),
        ("get apple 1", "take apple 1", 0),  # no command
        ("get apple 1", "take apple 1 from fridge 1", 0),  # one is not there
        ("check fridge 1", "go to fridge 1", 2),
        ("look inside fridge 1", "open fridge 1", 0),  # nor can it be opened from here
        ("look inside fridge 1", "go to fridge 1", 1),
        ("place apple 1 on countertop 1", "put apple 1 in/on countertop 1", 2),
        ("place apple 1 on countertop 1", "move apple 1 to countertop 1", 2),
        ("place apple 1 on countertop 1", "put apple 1 in/on fridge 1", 0),
    ],
)
def test_actions_are_judged_by_what_they_refer_to(step: str, action: str, grade: int) -> None:
    assert RuleJudge(resolve=resolve).grade([(step, SHOWN, action)]) == [grade]


# What a user may get wrong


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split", "valid"),
        ("fidelity", "tiny"),
        ("wording", "0.4"),
        ("engine", "thor"),
        ("places", 5),
        ("clutter", -1.0),
        ("surprises", 2.0),
        ("max_turns", 0),
        ("max_turns", 1),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        alfworld(**{key: value})
    assert str(error.value).startswith(f"env.{key}={value}: ")
    assert "\n" not in str(error.value)


def test_missing_games_are_refused_in_one_line(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"^env\.data_dir=.*alfworld-download$"):
        alfworld(engine="textworld", data_dir=str(tmp_path))


def test_any_unseen_place_is_another_place_but_none_that_was_left_closed() -> None:
    env = load("alfworld", split="dev")
    for task in env.tasks[:40]:
        env.reset(options={"task": task})
        expert = env.expert
        assert isinstance(expert, AlfWorldExpert)
        closed = [place for place in expert.notes.places if expert.notes.closed(place)]
        if len(closed) < 2 or not all(expert.equal(f"go to {place}") for place in closed[:2]):
            continue
        env.step(f"go to {closed[0]}")
        here = env.expert
        assert isinstance(here, AlfWorldExpert)
        assert here.equal(f"open {closed[0]}") == f"look inside {closed[0]}"
        assert bool(here.equal(f"go to {closed[1]}")) == (here.loose()[0] == "check another place")
        env.step(f"go to {closed[1]}")
        there = env.expert
        assert isinstance(there, AlfWorldExpert)
        assert there.equal(f"go to {closed[0]}") in ("", there.plan()[0])
        return
    raise AssertionError("no task begins so")

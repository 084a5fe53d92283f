"""The tools of an office: what they answer, tasks and their splits, an expert that knows what it was told, and calls as text."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from pilotrl.envs import load
from pilotrl.envs.office import Tools, resolve, tasks
from pilotrl.envs.office.expert import ToolsExpert
from pilotrl.envs.office.scene import Entry, Event, Goal, Op, Read, Scene, call_wanted, place, sentence
from pilotrl.envs.office.tasks import LEVELS, NAMES, SPLITS, TABLES
from pilotrl.envs.office.toolset import SINKS, TOOLS, Call, NoCall, calls, schema, written
from pilotrl.envs.office.world import BUSY, World
from pilotrl.rewards.judge.lexicon import PHRASES
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.rewards.judge.step_parser import naming, stems
from pilotrl.types import UserError

APPLE, RENT, FLAT = Read("look_up", ("stock", "apple")), Read("read_file", ("rent.txt",)), Read("read_note", ("flat",))
OLD, CALL = Read("read_note", ("old",)), Read("find_event", ("call",))
SUM = Op("multiply", Op("add", APPLE, RENT), 3)


def small(goal: Goal, **changes: Any) -> World:
    """Two places that say a number, one of them by way of a note that has moved; and an event."""
    entries: dict[Read, Entry] = {APPLE: 12, RENT: OLD, FLAT: 30, CALL: Event("friday", 9)}
    return World(replace(Scene(goal, entries, {OLD: FLAT}, {}, tuple(TOOLS)), **changes))


def tools(**options: Any) -> Tools:
    env = load("tools", **options)
    assert isinstance(env, Tools)
    return env


def said(world: World, action: str) -> str:
    (call,) = calls(action, world.scene.tools, "line")
    return world.do(call)


def solve(env: Tools, task: str) -> list[str]:
    """The tools that the expert calls, in order."""
    env.reset(options={"task": task})
    used, over = list[str](), False
    while not over:
        assert env.expert is not None
        action = env.expert.action()
        used.append(action.partition("[")[0])
        _, _, over, truncated, info = env.step(action)
        assert info["valid"]
        assert not truncated
    assert info["solved"]
    return used


# The tools


def test_what_tools_answer() -> None:
    world = small(Goal("answer", (), None, SUM))
    talk = {
        "look_up[stock, apple]": "12",
        "look_up[stock, pear]": "Error: no pear in table stock.",
        "read_file[rent.txt]": "see note old",
        "read_note[old]": "Error: no note old; it is now note flat.",
        "read_note[ flat ]": "30",
        "find_event[call]": "friday 9",
        "add[12, 30]": "42",
        "multiply[-2, 3]": "-6",
        "difference[3, 12]": "9",
        "larger[3, 12]": "12",
        "smaller[3, 12]": "3",
        "list_notes[]": "flat",
        "list_tables[]": "stock",
        "save_note[mine, 7]": "Done.",
        "read_note[mine]": "7",
        "save_note[flat, 7]": "Error: note flat must stay as it is.",
        "book_event[call, monday, 9]": "Error: event call must stay as it is.",
        "answer[126]": "Right.",
    }
    assert {action: said(world, action) for action in talk} == talk
    assert world.solved
    assert world.over


@pytest.mark.parametrize(
    ("goal", "right", "wrong"),
    [
        (Goal("answer", (), None, SUM), "answer[126]", "answer[125]"),
        (Goal("write_file", ("new.txt",), None, SUM), "write_file[new.txt, 126]", "write_file[new.txt, 12]"),
        (Goal("save_note", ("new",), None, SUM), "save_note[new, 126]", "save_note[new, 12]"),
        (Goal("book_event", ("new",), CALL, APPLE), "book_event[new, friday, 12]", "book_event[new, monday, 12]"),
    ],
)
def test_a_result_is_handed_in_once(goal: Goal, right: str, wrong: str) -> None:
    for action, solved in ((right, True), (wrong, False)):
        world = small(goal)
        assert said(world, action) == ("Right." if solved else "Wrong.")
        assert (world.over, world.solved) == (True, solved)


def test_a_result_in_another_place_ends_nothing() -> None:
    world = small(Goal("write_file", ("new.txt",), None, SUM))
    for action in ("save_note[new, 126]", "write_file[other.txt, 126]", "write_file[rent.txt, 126]"):
        said(world, action)
        assert not world.over


def test_a_busy_tool_refuses_as_often_as_the_scene_says_and_the_expert_asks_again() -> None:
    world = small(Goal("answer", (), None, SUM), busy={"look_up": 2})
    expert = ToolsExpert(world, "line")
    first = expert.plan()
    assert said(world, expert.action()) == BUSY
    assert expert.plan() == [f"{first[0]} again", *first[1:]]
    assert len(expert.loose()) == len(first)
    assert said(world, expert.action()) == BUSY
    assert said(world, expert.action()) == "12"


def test_a_plan_is_rewritten_when_a_call_fails_or_a_value_is_known() -> None:
    world = small(Goal("save_note", ("new",), None, SUM))
    expert, plans = ToolsExpert(world, "line"), list[list[str]]()
    while not world.over:
        plans.append(expert.plan())
        said(world, expert.action())
    after = ["use add on 12 and 30", "use multiply on the sum and 3", "put the product into note new"]
    assert plans == [
        ["look up apple in stock", "read file rent.txt", "use add on apple and rent.txt", *after[1:]],
        ["read file rent.txt", "use add on 12 and rent.txt", *after[1:]],
        ["read note old", "use add on 12 and old", *after[1:]],
        ["read note flat", "use add on 12 and flat", *after[1:]],
        after,
        ["use multiply on 42 and 3", "put the product into note new"],
        ["put 126 into note new"],
    ]


# Calls


def test_both_forms_of_a_call_are_read_the_same_and_follow_the_schema() -> None:
    for name, tool in TOOLS.items():
        call = Call(name, tuple(12 if kind == "integer" else "apple" for kind in tool.takes.values()))
        assert all(calls(written(call, form), list(TOOLS), form) == [call] for form in ("line", "json"))
        function = schema(name)["function"]
        assert function["name"] == name
        assert function["parameters"]["required"] == [*function["parameters"]["properties"]] == [*tool.takes]
        assert json.loads(written(call, "json"))["arguments"].keys() == tool.takes.keys()


def test_several_calls_of_one_reply_are_carried_out_in_order_until_one_ends_it() -> None:
    env = tools(split="dev", form="json")
    task = next(task for task in env.tasks if task.startswith("answer"))
    env.reset(options={"task": task})
    clock = {"name": "answer", "arguments": {"value": 1}}
    last = call_wanted(env._world.scene).arguments[0]
    first = {"name": "answer", "arguments": {"value": str(last)}}
    text, reward, over, _, info = env.step(json.dumps([first, clock]))
    assert (text, reward, over, info["results"], info["solved"]) == ("Right.", 1.0, True, ["Right."], True)


@pytest.mark.parametrize(
    "action",
    [
        "add[1]",
        "add[1, 2, 3]",
        "add[1, two]",
        "add[1, 2] ",
        "add[1, 99999999999]",
        "add [1, 2]",
        "add(1, 2)",
        "nope[1]",
        "read_note[]",
        '{"name": "add"}',
        '{"name": "add", "arguments": [1, 2]}',
        '{"name": "add", "arguments": {"a": 1}}',
        '{"name": "add", "arguments": {"a": 1, "b": 2.5}}',
        '{"name": "add", "arguments": {"a": true, "b": 2}}',
        '{"name": ["add"], "arguments": {}}',
        '[{"name": "add", "arguments": {"a": 1, "b": 2}}, 7]',
        "[" * 100_000,
        "1" * 5_000,
    ],
)
def test_what_is_no_call_is_refused_in_a_short_line(action: str) -> None:
    with pytest.raises(NoCall, match=r"\AError: [^\n]{1,400}\Z"):
        calls(action, list(TOOLS), "line")


def test_who_said_no_call_is_shown_one_in_the_form_of_the_world() -> None:
    for form, shown in (
        ("line", "find_event[event]"),
        ("json", '{"name": "find_event", "arguments": {"event": "..."}}'),
    ):
        with pytest.raises(NoCall) as told:
            calls("", ["find_event"], form)
        assert str(told.value) == f"Error: no call of a tool; such as {shown}."


def test_either_form_is_played_alike() -> None:
    line, other = tools(split="dev"), tools(split="dev", form="json")
    for task in line.tasks[:20]:
        line.reset(options={"task": task})
        other.reset(options={"task": task})
        over = False
        while not over:
            assert line.expert is not None
            assert other.expert is not None
            assert line.expert.plan() == other.expert.plan()
            one, two = line.step(line.expert.action()), other.step(other.expert.action())
            assert (one[:4], one[4]["results"]) == (two[:4], two[4]["results"])
            over = one[2]


def test_the_tools_of_a_task_are_those_that_it_needs_and_others() -> None:
    for level, options in (("easy", 4), ("hard", 8)):
        env = tools(split="test", level=level)
        for task in env.tasks[:50]:
            used = set(solve(env, task))
            offered = [tool["function"]["name"] for tool in env.tools]
            assert used <= set(offered)
            assert len(offered) == len(set(offered)) == min(len(used) + options, len(TOOLS))


# Tasks


@pytest.mark.parametrize("level", LEVELS)
def test_levels_are_as_long_as_they_say_and_the_expert_solves_every_task_in_par(level: str) -> None:
    for split, size in SPLITS.items():
        env = tools(split=split, level=level)
        assert len(env.tasks) == size
        assert {task.partition("-")[0] for task in env.tasks} >= {"answer", "write", "save"}
        for task in env.tasks:
            par = env.reset(options={"task": task})[1]["par"]
            assert par in LEVELS[level].par
            if split in ("test", "unseen"):
                assert len(solve(env, task)) == par


@pytest.mark.parametrize("level", LEVELS)
def test_splits_share_no_sentence_and_unseen_no_set_of_tools(level: str) -> None:
    sentences, sets = dict[str, set[str]](), dict[str, set[frozenset[str]]]()
    for split in SPLITS:
        env = tools(split=split, level=level)
        sentences[split] = {sentence(tasks.scene(env._source, task).goal) for task in env.tasks}
        assert len(sentences[split]) == len(env.tasks)
        sets[split] = {frozenset(solve(env, task)) for task in env.tasks[:300]}
    assert len(set().union(*sentences.values())) == sum(map(len, sentences.values()))
    assert not sets["unseen"] & (sets["train"] | sets["dev"] | sets["test"])
    assert len(sets["unseen"]) >= 5


def test_tasks_are_the_same_on_every_machine() -> None:
    """A digest of ids and texts: it changes only where somebody means to change the tasks."""
    digest = sha256()
    for split in SPLITS:
        env = tools(split=split)
        for task in env.tasks[:100]:
            digest.update(f"{task} {env.reset(options={'task': task})[0]} {solve(env, task)}\n".encode())
    assert digest.hexdigest()[:16] == "fdda28d1255158ae"


def test_more_failures_take_more_calls() -> None:
    def refused(failures: float) -> int:
        env = tools(split="dev", failures=failures)
        scenes = [tasks.scene(env._source, task) for task in env.tasks]
        return sum(len(scene.moved) + len(scene.busy) for scene in scenes)

    assert refused(0.0) == 0 < refused(0.3) < refused(0.8)


def test_nobody_who_reads_nothing_or_computes_nothing_solves_much() -> None:
    """The bounds that the page gives: any listed action; the latest number, handed in after all was read; silence."""
    env, draw = tools(split="test"), random.Random(0)
    lucky = guessed = 0
    for task in env.tasks:
        for player in ("random", "last", "silent", "the task"):
            text, info = env.reset(options={"task": task})
            over = False
            while not over:
                assert env.expert is not None
                reads, _ = env.expert._missing()
                hands = [a for a in info["actions"] if a.startswith(env._world.scene.goal.tool)]
                action = {
                    "random": draw.choice(info["actions"]),
                    "last": env.expert.action() if reads or not hands else hands[-1],
                    "silent": "",
                    "the task": text,
                }[player]
                _, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
            assert not (info["solved"] and player in ("silent", "the task"))
            lucky += info["solved"] and player == "random"
            guessed += info["solved"] and player == "last"
    assert lucky / len(env.tasks) < 0.1
    assert guessed / len(env.tasks) < 0.3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split", "exam"),
        ("level", "harder"),
        ("form", "xml"),
        ("failures", 1.5),
        ("failures", float("nan")),
        ("distractors", -1),
        ("max_turns", 0),
        ("max_turns", 1),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        tools(**{key: value})
    assert str(error.value).startswith(f"env.{key}={value}: ")


# The expert and the judge


def hidden(scene: Scene, told: set[Read]) -> Scene:
    """The same task with other content wherever the player has not read."""
    other: dict[Read, Entry] = {
        read: entry if read in told else Event("monday", 8) if isinstance(entry, Event) else 77
        for read, entry in scene.entries.items()
    }
    return replace(scene, entries=other, moved={old: new for old, new in scene.moved.items() if old in told}, busy={})


def test_the_expert_knows_what_it_was_told_and_no_more() -> None:
    """With other content wherever it has not read, and other tools that fail, it says the same."""
    env = tools(split="dev", level="hard")
    for task in env.tasks[:40]:
        env.reset(options={"task": task})
        world = env._world
        while not world.over:
            expert, scene = ToolsExpert(world, "line"), world.scene
            before = expert.plan(), expert.loose(), expert.action(), expert.thought(), world.actions()
            world.scene = hidden(scene, set(world.told))
            other = ToolsExpert(world, "line")
            assert before == (other.plan(), other.loose(), other.action(), other.thought(), world.actions())
            world.scene = scene
            said(world, before[2])


@pytest.mark.parametrize("level", LEVELS)
def test_the_expert_solves_tasks_after_random_calls(level: str) -> None:
    env, draw = tools(split="dev", level=level), random.Random(1)
    for task in env.tasks:
        env.reset(options={"task": task})
        world = env._world
        for _ in range(10):
            listed = [call for call in world.actions() if call.tool not in SINKS]
            world.do(draw.choice([*listed, Call("read_note", ("nothing",))]))
        for _ in range(env.max_turns):
            if not world.over:
                said(world, ToolsExpert(world, "line").action())
        assert world.solved


def test_the_judge_tells_who_follows_the_plan() -> None:
    env, judge = tools(split="dev"), RuleJudge(resolve=resolve)
    chance, total = 0.0, 0
    for task in env.tasks[:80]:
        (text, info), over = env.reset(options={"task": task}), False
        while not over:
            assert env.expert is not None
            step, action = env.expert.plan()[0], env.expert.action()
            others = [other for other in info["actions"] if other != action]
            grades = judge.grade([(step, text, other) for other in others])
            chance, total = chance + sum(grade or 0 for grade in grades) / 2, total + len(others)
            assert judge.grade([(step, text, other) for other in (step, "dance", "[]")]) == [0, 0, 0]
            seen, (text, _, over, _, info) = text, env.step(action)
            assert judge.grade([(step, seen, action, text)]) == [2], (step, action, text)
    assert chance / total < 0.25


def test_what_was_done_is_read_from_the_reply() -> None:
    assert resolve("", "look_up[stock, apple]", "12") == "search apple stock"
    assert resolve("", "look_up[stock, apple]", BUSY) == "search apple stock"
    assert resolve("", "look_up[stock, apple]", f"Error: no {place(APPLE)}; it is now {place(RENT)}.") != ""
    assert resolve("", "look_up[stock, apple]", f"Error: no {place(APPLE)}.") == ""
    assert resolve("", '{"name": "add", "arguments": {"a": 1, "b": 2}}', "3") == "use add 1 2"
    assert resolve("", "look at the apple", "") == ""


def test_every_name_is_one_that_the_judge_reads() -> None:
    every = [stems(name) for name in (*NAMES, *TABLES)]
    assert all(naming(found) and tuple(found) not in PHRASES for found in every)
    assert len({*map(tuple, every)}) == len(every)

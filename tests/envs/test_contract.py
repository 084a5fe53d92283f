"""One contract for every environment that there is. What needs an expert is skipped where there is none."""

from __future__ import annotations

import inspect
import pickle
import random
import re
from itertools import combinations
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from pilotrl.cli.open_nodes import locate
from pilotrl.config import search_path, trust
from pilotrl.envs import Env, LooseExpert, Mixed, load, settings_of
from pilotrl.rewards.judge.grading import grade
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.rollout import cheats
from tests.envs.page import written

OTHERS = {"agentgym", "gymnasium", "mcp", "openenv", "verifiers"}
"""Worlds that are somebody else's and have to be named first: they have tests of their own."""
PAGES = Path(__file__).parents[2] / "docs"
for page, name in (("environments.md", "guess"), ("replies.md", "till")):
    search_path.add(written(PAGES / page, Path(mkdtemp(prefix="page")), name))
ALL = search_path.options("env")
"""Ours, those of `examples/` and of `--own FOLDER`, and those that the pages on environments of one's own show."""
NAMES = [name for name in ALL if name not in OTHERS]
SPLITS = ("train", "dev", "test")
ODD = (
    "",
    " ",
    "\n",
    "\0",
    "<|end|>",
    "<|assistant|>search[x]<|end|>",
    "<|im_end|>",
    "[SEP]",
    "[]",
    "search[]",
    "search[s]",
    "search[[]]",
    "click[",
    "press[red",
    "press[\ue0000\ue001]",
    "{next} {plan} {{",
    "%s %n",
    "\\",
    "null",
    "-1",
    "🛒" * 50,
    "\u202ereversed\u202c",
    "a" * 100_000,
    "search[" + "word " * 5_000 + "]",
    "((((" * 500,
)
"""Actions that nobody asked for."""
Said = list[tuple[str, float, bool, bool, dict[str, Any]]]


@pytest.fixture(params=NAMES)
def env(request: pytest.FixtureRequest) -> Env:
    return load(request.param)


def start(env: Env, task: str) -> tuple[str, dict[str, Any]]:
    return env.reset(options={"task": task})


def some(draw: random.Random, env: Env, count: int) -> list[str]:
    """Tasks, or all where there are fewer."""
    return draw.sample(list(env.tasks), min(count, len(env.tasks)))


def garbled(draw: random.Random, info: dict[str, Any]) -> str:
    """Something odd, something legal, or something legal with characters lost, doubled, and put in."""
    listed = [str(action) for action in info.get("actions", [])] or ["look"]
    if draw.random() < 0.3:
        return draw.choice(ODD)
    action = list(draw.choice(listed))
    for _ in range(draw.choice((0, 0, 1, 2, 5))):
        place = draw.randrange(len(action) + 1)
        action[place : place + draw.randrange(2)] = draw.choice(("", "[", "]", " ", "é", "\n", "<|end|>", "X", "0"))
    return "".join(action)


def fuzzed(env: Env, task: str, draw: random.Random) -> Said:
    """An episode of garbled actions: everything that came back."""
    _, info = start(env, task)
    said: Said = []
    while not said or not (said[-1][2] or said[-1][3]):
        said.append(env.step(garbled(draw, said[-1][4] if said else info)))
    return said


def test_keywords_of_the_constructor_are_the_keys_of_the_file_and_have_no_defaults() -> None:
    for name in ALL:
        settings = settings_of(name)
        parameters = inspect.signature(locate("env", settings["_target_"])).parameters
        assert set(parameters) == set(settings) - {"_target_"}, name
        assert all(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters.values()), name


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint_and_the_same_every_time(name: str) -> None:
    tasks = {split: list(load(name, split=split).tasks) for split in SPLITS}
    assert all(tasks.values())
    assert tasks == {split: list(load(name, split=split).tasks) for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not set(tasks[one]) & set(tasks[other])
    for ids in tasks.values():
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_instruction(name: str) -> None:
    draw, texts = random.Random(0), {}
    for split in SPLITS:
        env = load(name, split=split)
        tasks = [
            task for task in env.tasks if not task.startswith("wordle/")
        ]  # in Wordle all begin with the same words
        texts[split] = {start(env, task)[0] for task in draw.sample(tasks, min(60, len(tasks)))}
    if len(texts["train"]) > 1:  # and so in Wordle by itself
        assert not texts["train"] & texts["test"]
        assert not texts["train"] & texts["dev"]


def test_a_task_run_twice_gives_the_same_texts(env: Env) -> None:
    for task in some(random.Random(1), env, 5):
        one, other = (fuzzed(env, task, random.Random(task)) for _ in range(2))
        assert one == other
        assert start(env, task) == start(env, task)


def test_a_reset_says_what_it_has_to(env: Env) -> None:
    text, info = start(env, env.tasks[0])
    assert text
    assert (info["score"], info["solved"], info["valid"]) == (0.0, False, True)
    assert info["par"] is None or info["par"] >= 1


@pytest.mark.parametrize("enough", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_action_string_breaks_an_episode(env: Env, enough: int) -> None:
    draw, turns, endings = random.Random(2), 0, set()
    while turns < enough:
        said = fuzzed(env, draw.choice(env.tasks), draw)
        turns += len(said)
        for text, reward, terminated, truncated, info in said:
            assert isinstance(text, str)
            assert isinstance(reward, float | int)
            assert 0.0 <= info["score"] <= 1.0
            assert isinstance(info["solved"], bool)
            assert isinstance(info["valid"], bool)
            assert not (terminated and truncated)
            assert terminated or not info["solved"]
        endings.add(said[-1][2])
    assert False in endings  # some were cut by the turn limit


def test_an_odd_action_is_answered_and_flagged(env: Env) -> None:
    for action in ODD:
        start(env, env.tasks[0])
        text, reward, _, _, info = env.step(action)
        assert text
        assert (reward, info["score"]) == (0, 0.0)
        if "search" not in action:
            assert not info["valid"], action


def test_the_turn_limit_truncates_and_does_not_terminate(env: Env) -> None:
    start(env, env.tasks[0])
    limit = env.max_turns
    assert limit is not None
    endings = [env.step("?")[2:4] for _ in range(limit)]
    assert endings == [(False, False)] * (limit - 1) + [(False, True)]


def test_stepping_an_ended_episode_raises_and_a_reset_mends_it(env: Env) -> None:
    with pytest.raises(RuntimeError):
        env.step("?")
    fuzzed(env, env.tasks[0], random.Random(3))
    with pytest.raises(RuntimeError):
        env.step("?")
    start(env, env.tasks[1])
    env.step("?")


def test_a_task_of_another_split_is_refused(env: Env) -> None:
    with pytest.raises(KeyError):
        start(env, "no such task")


def test_an_episode_goes_on_after_pickling(env: Env) -> None:
    draw = random.Random(4)
    for task in some(draw, env, 3):
        _, info = start(env, task)
        _, _, terminated, truncated, info = env.step(garbled(draw, info))
        if terminated or truncated:
            continue
        other = pickle.loads(pickle.dumps(env))
        action = garbled(draw, info)
        assert env.step(action) == other.step(action)


def test_the_expert_solves_what_it_is_given_within_par(env: Env) -> None:
    for task in some(random.Random(5), env, 20):
        _, info = start(env, task)
        par, turns, over = info["par"], 0, False
        while not over:
            if (expert := env.expert) is None:
                pytest.skip("ships no expert")
            plan, action = expert.plan(), expert.action()
            assert plan
            assert all(step and "\n" not in step and action not in step for step in plan)
            _, _, terminated, truncated, info = env.step(action)
            over, turns = terminated or truncated, turns + 1
        assert info["solved"]
        assert (info["score"], terminated) == (1.0, True)
        assert par is None or turns <= par


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def test_loose_steps_have_no_word_that_only_the_action_has(env: Env) -> None:
    """And there are as many as exact ones, so that step i is about action i; also after a detour."""
    draw = random.Random(0)
    for task in some(draw, env, 50):
        first, _ = start(env, task)
        over = False
        while not over:
            if not isinstance(expert := env.expert, LooseExpert):
                pytest.skip("ships no expert that words its steps loosely")
            steps, action = expert.loose(), expert.action()
            assert len(steps) == len(expert.plan())
            assert all(0 < len(step.split()) <= 12 and "\n" not in step for step in steps)
            assert not words(steps[0]) & words(action) - words(first), (steps[0], action)
            detour = expert.detour() if draw.random() < 0.2 else None
            _, _, terminated, truncated, _ = env.step(detour or action)
            over = terminated or truncated


def test_the_expert_plans_from_any_state_after_random_actions(env: Env) -> None:
    draw = random.Random(6)
    for task in some(draw, env, 15):
        _, info = start(env, task)
        over = False
        while not over:
            if (expert := env.expert) is None:
                pytest.skip("ships no expert")
            assert expert.plan()
            _, _, terminated, truncated, info = env.step(
                garbled(draw, info) if draw.random() < 0.5 else expert.action()
            )
            over = terminated or truncated


@pytest.mark.parametrize("name", NAMES)
def test_a_detour_ends_nothing_and_is_not_taken_twice_in_a_row(name: str) -> None:
    """With or without them an expert comes to the end, if there are turns enough for both."""
    env, draw = load(name, split="train"), random.Random(0)
    for task in env.tasks[:10]:
        start(env, task)
        over, last = False, None
        while not over:
            if env.expert is None:
                pytest.skip("ships no expert")
            detour = env.expert.detour()
            assert detour is None or detour != last
            last = detour if detour and draw.random() < 0.5 else None
            _, _, terminated, truncated, info = env.step(last or env.expert.action())
            assert last is None or (info["valid"] and not terminated)
            over = terminated or truncated
        assert info["solved"] or truncated


def test_who_does_nothing_for_it_earns_no_more_than_chance(env: Env, request: pytest.FixtureRequest) -> None:
    """Who says nothing, repeats the task, claims success, or tries what a reward hacker would: see pilotrl/rollout/cheats.py."""
    if isinstance(env, Mixed):
        pytest.skip("is made of environments that are tested alone")
    name = request.node.callspec.params["env"]
    given = cheats.given_away(env, name, cheats.earnings(env, name, some(random.Random(7), env, 15)))
    assert not given, "\n".join(given)


def test_who_does_nothing_for_it_follows_no_plan(env: Env, request: pytest.FixtureRequest) -> None:
    """The judge of rules gives such players nothing, and those who act at random little."""
    if isinstance(env, Mixed):
        pytest.skip("is made of environments that are tested alone")
    name = request.node.callspec.params["env"]
    grader = RuleJudge(resolve=trust.beside("env._target_", str(settings_of(name)["_target_"]), "resolve"))
    for said, player in cheats.PLAYERS.items():
        episodes = [cheats.played(env, name, task, player, True) for task in some(random.Random(8), env, 8)]
        grade(grader, episodes, unselected=False)
        verdicts = [turn.adherence for episode in episodes for turn in episode.turns if turn.adherence is not None]
        if not verdicts:
            pytest.skip("ships no expert")
        most = 1.0 if said in ("hurries to the end", "names the goal") else 0.0
        assert sum(verdicts) <= most * len(verdicts), f"{name}: a player that {said} is said to follow its plan"

"""Environments of verifiers, with its own package: two tasksets in `worlds/`, found as its command line finds those of others."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from pilotrl.config import search_path, trust
from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import load
from pilotrl.envs.verifiers import Verifiers
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.types import Task, UserError, WorldError
from tests.envs.steps import trained
from tests.envs.test_contract import ODD

WORLDS = Path(__file__).parent / "worlds"
pytestmark = [
    pytest.mark.verifiers,
    pytest.mark.skipif(not find_spec("verifiers"), reason="NOT TESTED: verifiers is not installed (docs/verifiers.md)"),
]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Verifiers]]:
    """Builds environments of a module beside this file, which are closed in the end."""
    built = list[Verifiers]()
    search_path.add(WORLDS)

    def made(taskset: str = "letters-world", **changes: Any) -> Verifiers:
        env = load("verifiers", taskset=taskset, **changes)
        assert isinstance(env, Verifiers)
        built.append(env)
        return env

    yield made
    for env in built:
        env.close()


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


# The contract


def test_an_episode(make: Any) -> None:
    """Task n hides the n-th letter. Three quarters are for the letter, the rest for naming it at once."""
    env = make()
    text, info = env.reset(options={"task": "3"})
    assert (text, env.system, env.tools) == ("Which letter is it, of train?", "Guess.", [])
    assert info == {"score": 0.0, "solved": False, "valid": True, "par": None}
    assert env.step("q") == ("Earlier. <|end|>", 0.0, False, False, {"score": 0.0, "solved": False, "valid": True})
    text, reward, terminated, truncated, info = env.step("d")
    assert (text, reward, terminated, truncated) == ("The task has ended.", 0.75, True, False)
    assert info == {"score": 0.75, "solved": False, "valid": True}
    with pytest.raises(RuntimeError):
        env.step("d")
    with pytest.raises(KeyError):
        env.reset(options={"task": "7"})
    env.reset(options={"task": "3"})
    assert env.step("d")[1:] == (1.0, True, False, {"score": 1.0, "solved": True, "valid": True})
    env = make(solved_at=0.7)
    env.reset(options={"task": "3"})
    env.step("x")
    assert env.step("d")[4]["solved"]


def test_turns_that_are_used_up_truncate_and_are_scored(make: Any) -> None:
    env = make(max_turns=2)
    env.reset(options={"task": "0"})
    env.step("x")
    assert env.step("x")[1:] == (0.0, False, True, {"score": 0.0, "solved": False, "valid": True})
    env.reset(options={"task": "0"})
    env.step("x")
    assert env.step("a")[1:4] == (0.75, True, False)
    env.reset(options={"task": "0"})
    assert env.step("give up")[1:4] == (0.0, True, False)  # its @stop


def test_odd_replies_are_replies_like_others(make: Any) -> None:
    env = make(max_turns=len(ODD))
    env.reset()
    for action in ODD:
        text, reward, terminated, truncated, info = env.step(action)
        assert text
        assert (reward, terminated, info["valid"]) == (0.0, False, True)
    assert truncated


def test_tools_and_the_state_that_they_share_with_the_reward(make: Any) -> None:
    env = make("sums-world", max_turns=4)
    assert env.reset(options={"task": "3"})[0] == "What is 3 and 4?"
    names = [tool["function"]["name"] for tool in env.tools]
    assert names == ["desk_about", "desk_add", "desk_fail", "answer"]
    asked = [call("desk_add", a=3, b=4), call("desk_about"), call("desk_fail", why="no paper")]
    text, reward, _, _, info = env.step(f"[{', '.join(asked)}]")
    assert info["results"] == ["7", "7, 2", "Error: Error executing tool fail: no paper"]
    assert (info["valid"], reward) == (True, 0.0)
    for wrong in ("7", "", call("add", a=1, b=2), f"[{call('answer', text='7')}, {call('desk_about')}]"):
        text, _, terminated, truncated, info = env.step(wrong)
        assert not terminated
        if truncated:
            break
        assert text.startswith("Nothing happens: ")
        assert (info["valid"], "results" in info) == (False, False)
    assert (truncated, info["score"]) == (True, 0.0)
    for turn in range(4):  # turns that were not understood count, so the last is the last
        env.reset(options={"task": "3"}) if turn == 0 else None
        truncated = env.step("7" if turn < 3 else call("desk_about"))[3]
    assert (truncated, env.over) == (True, True)
    for answer, reward in (("7", 1.0), ("8", 0.0)):
        env.reset(options={"task": "3"})
        env.step(call("desk_add", a=3, b=4))
        assert env.step(call("answer", text=answer))[1:4] == (reward, True, False)


def test_two_at_once_are_two_alone_and_one_goes_on_after_pickling(make: Any) -> None:
    def told(env: Verifiers, *actions: str) -> Iterator[Any]:
        env.reset(options={"task": "4"})
        yield from (env.step(action) for action in actions)

    together = [*zip_longest(told(make(), "x", "e"), told(make(), "a", "b"))]
    assert [*zip(*together, strict=True)] == [tuple(told(make(), "x", "e")), tuple(told(make(), "a", "b"))]
    env = make()
    env.reset(options={"task": "4"})
    env.step("x")
    other = pickle.loads(pickle.dumps(env))
    assert env.step("e") == other.step("e")


def test_the_splits_are_cut_by_position_or_held_out(make: Any) -> None:
    tasks = {split: make(split=split).tasks for split in ("train", "dev", "test")}
    assert tasks["dev"] == ["7", "17"]
    assert tasks["test"] == ["8", "9", "18", "19"]
    assert sorted(map(int, [name for names in tasks.values() for name in names])) == [*range(26)]
    held = {"letters": "abcdxyz", "held_out": {"split": "test"}}
    other = {"config": {"letters": "abcd"}, "held_out": {"letters": "abcdxyz"}}  # a to d are of training too
    assert [make(split=split, **other).tasks for split in tasks] == [
        ["0", "1", "2", "3"],
        ["other-4", "other-6"],
        ["other-5"],
    ]
    env = make(split="test", config={"letters": held["letters"]}, held_out=held["held_out"])
    assert env.reset()[0] == "Which letter is it, of test?"
    with pytest.raises(UserError, match="leaves no task for the split test"):
        make(split="test", held_out={"end": True})  # which makes no other task
    twice = make(config={"letters": "aabacdefghij"})
    assert twice.tasks == ["0", "2", "4", "5", "6", "10", "11"]
    with pytest.raises(UserError, match=r"^env.tasks=null: the taskset letters-world has no end"):
        make(config={"end": False})
    assert len(make(config={"end": False}, tasks=20).tasks) == 14


def test_a_program_that_fails_is_an_error_of_the_environment(make: Any) -> None:
    env = make(timeout=5.0)
    for guess, says in {
        "none": "scoring: TypeError: float.. argument must be",
        "nan": "its rewards are .*'found': nan",
        "fail": r"LettersEnv.run\(\): ValueError: no paper",
        "again": "its program ran 2 attempts",
        "wait": "took longer than 5 seconds",
    }.items():
        env.reset()
        with pytest.raises(WorldError, match=f"^letters-world: .*{says}") as failed:
            while True:
                env.step(guess)
        assert str(failed.value).isprintable()
        with pytest.raises(RuntimeError):
            env.step("x")
    env.reset()
    env.step("two")
    with pytest.raises(WorldError, match="asks for two replies at once"):
        env.step("x")


def test_a_program_that_cannot_begin_is_refused_before_a_run(make: Any) -> None:
    make().probe()
    with pytest.raises(UserError, match=r"^taskset=letters-world: .*no pen; play it with verifiers' own command"):
        make(config={"pen": False}).probe()


# In a run


def test_a_rollout_counts_what_is_broken(make: Any, agent_spec: AgentSpec) -> None:
    alone = replace(agent_spec, plans="never", max_length=2000, max_tokens={"planner": 200, "executor": 200})
    specs = [EpisodeSpec(Task("verifiers", str(i), "train", 0), i, 0, alone) for i in range(3)]
    said = iter(["fail"] * 3)
    policy = ScriptedPolicy(agent_spec.chat, lambda prompt: f"Action: {next(said, 'b')}", slots=1)
    episodes = run_episodes(specs, lambda: make(max_turns=1), policy, ("verifiers",))
    assert [episode.outcome for episode in episodes] == ["broken", "solved", "truncated"]
    assert [turn.action for episode in episodes[1:] for turn in episode.turns] == ["b", "b"]


def test_two_steps_of_training(tmp_path: Path) -> None:
    """With the shipped model, text and tools."""
    search_path.add(WORLDS)
    for taskset in ("letters-world", "sums-world"):
        steps = trained(tmp_path / taskset, "env=verifiers", f"env.taskset={taskset}", "env.max_turns=2")
        assert [line["step"] for line in steps] == [1, 2]
        assert [line["train/broken"] for line in steps] == [0, 0]


# What a user got wrong

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"taskset": None}, "env.taskset=null: has no value"),
    ({"taskset": "os.path"}, "env.taskset=os.path: must be the name of a module at the top"),
    ({"taskset": "json"}, "env.taskset=json: is not trusted and was not imported"),
    ({"taskset": "no-such"}, "env.taskset=no-such: is not trusted"),
    ({"taskset": "page"}, "env.taskset=page: cannot be made"),
    ({"config": 3}, "env.config=3: must be a mapping"),
    ({"config": {"leters": "x"}}, "env.taskset=letters-world: cannot be made .*leters"),
    ({"config": {"id": "json"}}, "env.config={'id': 'json'}: must be a mapping"),
    (
        {"config": {"task": {"rewards": {"x": {"fn": "os.system"}}}}},
        "env.config.task.rewards.x.fn=os.system: is not trusted",
    ),
    ({"config": {"task": {"stops": {"x": {"fn": "/a.py:f"}}}}}, "env.config.task.stops.x.fn=/a.py:f: is not trusted"),
    (
        {"held_out": {"task": {"judges": [{"id": "json"}]}}},
        "env.held_out.task.judges.0.id=json: judges of a configuration",
    ),
    ({"split": "tset"}, "env.split=tset: must be one of train, dev, test"),
    ({"split": "dev", "config": {"letters": "abc"}}, "leaves no task for the split dev; it has 3 different ones"),
    ({"tasks": 0}, "env.tasks=0: must be above 0"),
    ({"solved_at": 2.0}, "env.solved_at=2.0: must be above 0, at most 1"),
    ({"max_turns": 0}, "env.max_turns=0: must be above 0"),
    ({"timeout": 0.0}, "env.timeout=0.0: must be above 0"),
]


def test_what_a_user_got_wrong(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trust.MODULES.add("page")
    monkeypatch.syspath_prepend(str(WORLDS.parent))  # where there is a module that is no taskset
    for given, said in WRONG:
        with pytest.raises(UserError, match=said) as wrong:
            make(**given)
        assert str(wrong.value).startswith("env.")
        assert "\n" not in str(wrong.value)
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    with pytest.raises(UserError, match=r"^env=verifiers: its package cannot be imported .*constraints-verifiers.txt"):
        make()

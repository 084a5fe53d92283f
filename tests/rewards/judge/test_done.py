"""A judge that cannot be farmed: what was done counts, in every world, and the words of a command do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from random import Random

import pytest

from pilotrl import envs
from pilotrl.rewards.judge import Item, build
from pilotrl.rewards.judge.grading import grade
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.types import Episode, PlanScores, Task, Turn, UserError

WORLDS = ("alfworld", "babyai", "iqa", "maze", "textcraft", "webshop", "wordle")
LABELS = [json.loads(line) for line in Path(__file__).with_name("trained.jsonl").read_text("utf-8").splitlines()]
NO_ACTIONS = (
    "",
    "dance",
    "craft 4 oak planks using 1 dirt",
    "take apple 1 from fridge 1",
    "click[nowhere]",
    "open fridge_9",
)


class Generous:
    """A judge that pays for everything, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Item] = []

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        self.asked += items
        return [2] * len(items)

    def grade_plans(self, items: Sequence[object]) -> list[PlanScores | None]:
        return [None] * len(items)


def judge_of(world: str) -> RuleJudge:
    module = envs.settings_of(world)["_target_"].rpartition(".")[0]
    return RuleJudge(resolve=getattr(import_module(module), "resolve", None))


def graded(judge: RuleJudge | Generous, step: str, seen: str, action: str, reply: str, valid: bool) -> int | None:
    """The verdict that training would see."""
    turn = Turn((step,), action, action, reply, valid, True, 0.0)
    grade(judge, [Episode(Task("any", "t", "test", 0), 0, 0, seen, turns=[turn])], unselected=False)
    return turn.adherence


@pytest.mark.parametrize("world", [*WORLDS, "tools"])
def test_what_the_world_rejects_earns_nothing_and_the_experts_action_everything(world: str) -> None:
    """In the expert's states: commands of other states, of other tasks and of no world, and the plan's own words."""
    env, judge, draw = envs.load(world, split="dev"), judge_of(world), Random(0)
    generous, pool, rejected = Generous(), [*NO_ACTIONS], 0
    for task in env.tasks[:6]:
        text, _ = env.reset(options={"task": task})
        taken, over = list[str](), False
        while not over:
            expert = env.expert
            assert expert is not None
            step, action = expert.plan()[0], expert.action()
            for other in (step, *draw.sample(pool, min(4, len(pool)))):
                twin = envs.load(world, split="dev")
                twin.reset(options={"task": task})
                for done in taken:
                    twin.step(done)
                reply, *_, info = twin.step(other)
                if not info["valid"]:
                    rejected += 1
                    assert graded(judge, step, text, other, reply, False) == 0, (step, other)
                    assert graded(generous, step, text, other, reply, False) == 0, (step, other)
            pool.append(action)
            taken.append(action)
            reply, _, terminated, truncated, info = env.step(action)
            assert graded(judge, step, text, action, reply, info["valid"]) == 2, (step, action, reply)
            text, over = reply, terminated or truncated
    assert rejected > 10
    assert generous.asked == []


@pytest.mark.parametrize(
    ("world", "step", "seen", "action", "reply", "verdict"),
    [
        (
            "textcraft",
            "make 4 crimson planks",
            "",
            "craft 4 stick using 2 crimson planks",
            "Crafted 4 minecraft:stick",
            0,
        ),
        (
            "textcraft",
            "make 4 crimson planks",
            "",
            "craft 4 crimson planks using 1 stem",
            "Crafted 4 minecraft:crimson_planks",
            2,
        ),
        (
            "textcraft",
            "make 9 oak planks",
            "",
            "craft 9 oak planks using 1 oak logs",
            "Crafted 4 minecraft:oak_planks",
            1,
        ),
        (
            "textcraft",
            "make 1 oak fence",
            "",
            "craft 1 oak fence gate using 4 stick",
            "Crafted 1 minecraft:oak_fence_gate",
            0,
        ),
        ("textcraft", "collect 2 stick", "", "get 2 bone", "Got 2 bone", 0),
        ("textcraft", "collect 3 diamond", "", "get 6 diamond", "Got 6 diamond", 1),
        ("textcraft", "make planks", "", "craft 4 oak planks using 1 oak logs", "Crafted 4 minecraft:oak_planks", 2),
        (
            "textcraft",
            "make 4 oak planks using 1 birch log",
            "",
            "craft 4 oak planks using 1 oak logs",
            "Crafted 4 minecraft:oak_planks",
            1,
        ),
        (
            "alfworld",
            "look inside fridge 1",
            "The fridge 1 is closed.",
            "look",
            "You are facing the fridge 1. Next to it, you see nothing.",
            0,
        ),
        (
            "alfworld",
            "look inside fridge 1",
            "The fridge 1 is closed.",
            "examine fridge 1",
            "The fridge 1 is closed.",
            0,
        ),
        ("babyai", "reach the red ball", "red ball 1 1 ahead.", "go to red ball 1", "No change in state.", 0),
        (
            "babyai",
            "reach the red ball",
            "red ball 1 2 ahead; red key 1 4 ahead.",
            "go to red key 1",
            "red key 1 1 ahead.",
            0,
        ),
        ("babyai", "put down the red ball", "facing wall 3 ahead; carrying red box.", "drop", "red box 1 1 ahead.", 0),
        ("maze", "go left", "There is a wall to your left.", "move left", "There is a wall to your left.", 0),
    ],
)
def test_a_step_is_followed_when_its_thing_was_done(
    world: str, step: str, seen: str, action: str, reply: str, verdict: int
) -> None:
    assert graded(judge_of(world), step, seen, action, reply, True) == verdict


def test_on_what_a_trained_policy_does_it_agrees_with_what_happened() -> None:
    assert len(LABELS) >= 100
    assert {row["env"] for row in LABELS} == {*WORLDS}
    wrong = []
    for row in LABELS:
        given = graded(judge_of(row["env"]), row["step"], row["observation"], row["action"], row["reply"], row["valid"])
        wrong += [(row["label"], given, row["step"], row["action"])] * (given != row["label"])
    print(f"\nwhat a trained policy does: {len(LABELS)} triples, {len(LABELS) - len(wrong)} agree; others: {wrong}")
    assert not [row for row in wrong if row[1] == 2], wrong  # full marks are never paid for what was not done
    assert len(wrong) <= 0.03 * len(LABELS), wrong


def test_a_resolve_of_two_arguments_is_refused() -> None:
    rule = {"_target_": "pilotrl.rewards.judge.rule.RuleJudge"}
    with pytest.raises(
        UserError, match=r"resolve\(seen, did\) must take three arguments: resolve\(observation, action, reply"
    ):
        build(rule, lambda seen, did: did)  # type: ignore[arg-type, misc]

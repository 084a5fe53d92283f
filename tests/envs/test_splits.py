"""No split shares a task with another, by what happens in it and not by what it is called: experts are played on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import pytest

from pilotrl.envs import digest, load

SPLITS = ("train", "dev", "test", "unseen")
WORLDS = ("webshop", "alfworld", "textcraft", "babyai", "iqa", "maze", "wordle", "tools")
QUICK = {"babyai": 100}
"""Tasks of a split that are played where an episode takes long; `-m slow` plays all of them, as elsewhere."""


class Played(NamedTuple):
    """An expert's episode."""

    first: str
    actions: tuple[str, ...]
    answers: tuple[str, ...]


@cache
def played(name: str, split: str, most: int | None) -> list[Played]:
    env, found = load(name, split=split), []
    for task in list(env.tasks)[:most]:
        first, _ = env.reset(options={"task": task})
        actions, answers, over = list[str](), list[str](), False
        while not over:
            assert env.expert is not None
            actions.append(env.expert.action())
            text, _, terminated, truncated, _ = env.step(actions[-1])
            answers.append(text)
            over = terminated or truncated
        found.append(Played(first, tuple(actions), tuple(answers)))
    return found


def shared(name: str, parts: Sequence[str], most: int | None = None) -> list[tuple[str, str]]:
    """Pairs of splits in which episodes are alike in all these parts."""
    held = {
        split: {tuple(getattr(one, part) for part in parts) for one in played(name, split, most)} for split in SPLITS
    }
    return [(one, other) for one, other in combinations(SPLITS, 2) if held[one] & held[other]]


@pytest.mark.parametrize("name", WORLDS)
def test_no_two_splits_share_a_transcript(name: str) -> None:
    assert not shared(name, Played._fields, QUICK.get(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_no_two_splits_share_a_transcript_where_that_takes_minutes(name: str) -> None:
    assert not shared(name, Played._fields)


@pytest.mark.parametrize("name", [name for name in WORLDS if name != "wordle"])
def test_no_two_splits_share_a_first_observation(name: str) -> None:
    alike = (
        {("train", "dev")} if name == "iqa" else set[tuple[str, str]]()
    )  # views of different kitchens, as its page says
    assert {*shared(name, ["first"], QUICK.get(name))} == alike


def test_no_two_splits_of_textcraft_share_what_the_expert_does() -> None:
    assert not shared("textcraft", ["actions"])


def test_a_digest_tells_tasks_apart_and_not_names() -> None:
    one, other = load("wordle", split="test"), load("wordle", split="unseen")
    assert len({digest(one, task) for task in one.tasks}) == len(one.tasks)  # all begin with the same words
    assert digest(one, one.tasks[0]) == digest(load("wordle", split="test"), one.tasks[0])
    shop, dearer = load("webshop", split="test"), load("webshop", split="test", repeat_instruction=True)
    assert digest(shop, shop.tasks[0]) != digest(dearer, shop.tasks[0])  # same task, other pages
    assert not {digest(other, task) for task in other.tasks} & {digest(one, task) for task in one.tasks}

"""What experts think before they act: of what they saw, and never the plan's step or the action."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pilotrl.envs import Expert, load, thought_of
from tests.envs.test_contract import garbled

WORLDS = ("toy", "webshop", "alfworld", "textcraft", "babyai", "iqa", "maze", "wordle", "tools", "keydoor")
TASKS = 50
WORDS = 16


def states(name: str) -> Iterator[tuple[list[str], Expert]]:
    """What was seen so far, and the expert, along episodes of one who plays like it four times out of five."""
    env, draw = load(name, split="train"), random.Random(0)
    for task in draw.sample(list(env.tasks), TASKS):
        text, info = env.reset(options={"task": task})
        seen, over = [text], False
        while not over:
            assert env.expert is not None
            yield list(seen), env.expert
            action = garbled(draw, info) if draw.random() < 0.2 else env.expert.action()
            text, _, terminated, truncated, info = env.step(action)
            seen += [action, text]
            over = terminated or truncated


@pytest.mark.parametrize("name", WORLDS)
def test_a_thought_is_short_and_names_neither_step_nor_action(name: str) -> None:
    for _, expert in states(name):
        thought = expert.thought()
        assert thought == thought_of(expert)
        assert len(thought.split()) <= WORDS
        said = [expert.plan()[0].lower(), expert.action().lower()]
        assert not [words for words in said if words in thought.lower()], thought


@pytest.mark.parametrize("name", WORLDS)
def test_a_thought_follows_from_what_was_seen_and_changes_with_it(name: str) -> None:
    known: dict[tuple[str, ...], str] = {}
    changed, before = list[bool](), ([""], "")
    for seen, expert in states(name):
        thought = expert.thought()
        assert known.setdefault(tuple(seen), thought) == thought
        if seen[:-2] == before[0] and seen[-1] not in seen[:-1]:  # the next turn of an episode shows what was new
            changed.append(thought != before[1])
        before = seen, thought
    least = 0.4 if name == "iqa" else 0.5  # on a long walk through a kitchen nothing new is seen for a while
    assert sum(changed) >= least * len(changed) > 10

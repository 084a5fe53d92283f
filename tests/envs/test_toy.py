"""ToyEnv: its texts word for word, on which other tests build."""

from __future__ import annotations

import pytest

from pilotrl.envs import load
from pilotrl.envs.toy import COLORS, ToyEnv
from pilotrl.types import UserError


def task(env: ToyEnv, length: int = 3) -> tuple[list[str], str]:
    name = next(name for name in env.tasks if len(set(name.split("-"))) == length == len(name.split("-")))
    return name.split("-"), env.reset(options={"task": name})[0]


def test_an_episode_word_for_word(toy: ToyEnv) -> None:
    (one, two, three), text = task(toy)
    assert text == f"Press {one}, then {two}, then {three}."
    assert toy.step(f"press[{one}]")[:4] == (f"You pressed {one}. 1 of 3 done.", 1 / 3, False, False)
    assert toy.step(f"press[{two}] please")[:2] == ("Nothing happens.", 0.0)
    assert toy.step(f"press[{two}]")[:2] == (f"You pressed {two}. 2 of 3 done.", 1 / 3)
    *said, info = toy.step(f"press[{three}]")
    assert said == [f"You pressed {three}. 3 of 3 done.", 1 / 3, True, False]
    assert (info["score"], info["solved"], info["valid"]) == (1.0, True, True)


def test_a_wrong_button_ends_the_episode_as_failed(toy: ToyEnv) -> None:
    (one, two, _), _ = task(toy)
    toy.step(f"press[{one}]")
    wrong = next(color for color in COLORS if color != two)
    *said, info = toy.step(f"press[{wrong}]")
    assert said == ["Wrong button.", 0.0, True, False]
    assert (info["score"], info["solved"], info["valid"]) == (1 / 3, False, True)


def test_the_expert_plans_what_is_left(toy: ToyEnv) -> None:
    assert toy.expert is None
    (one, two, three), _ = task(toy)
    assert toy.expert is not None
    assert toy.expert.plan() == [f"push the {color} button" for color in (one, two, three)]
    toy.step(f"press[{one}]")
    toy.step("?")
    assert toy.expert.plan() == [f"push the {color} button" for color in (two, three)]
    assert toy.expert.action() == f"press[{two}]"


def test_splits_deal_out_every_sequence() -> None:
    tasks = [name for split in ("train", "dev", "test") for name in load("toy", split=split).tasks]
    assert len(set(tasks)) == len(tasks) == 8**2 + 8**3
    assert load("toy", seed=1).tasks != load("toy", seed=0).tasks
    with pytest.raises(UserError, match=r"env\.split=exam"):
        load("toy", split="exam")

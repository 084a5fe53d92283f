"""A third-party Gymnasium environment, through our contract."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import pytest
from gymnasium.spaces import Discrete, Text

from pilotrl.envs import Env, load
from pilotrl.types import UserError, WorldError


class Countdown(gymnasium.Env):  # type: ignore[misc]
    """Say the number, then the one below, down to nought."""

    observation_space = Text(100)
    action_space = Text(1, charset="0123456789")

    def __init__(self, most: int = 5, broken: bool = False) -> None:
        self.most, self.broken = most, broken

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.number = self.first = int(self.np_random.integers(2, self.most))
        return f"Count down from {self.number}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.broken:
            raise OSError("no such world")
        right = int(action) == self.number
        self.number -= right
        return ("Right." if right else "Wrong."), right / (self.first + 1), self.number < 0, False, {}


class Numbers(Countdown):
    action_space = Discrete(10)


class Words(Countdown):
    action_space = Text(40)


gymnasium.register(id="Words-v0", entry_point=Words)
gymnasium.register(id="Countdown-v0", entry_point=Countdown)
gymnasium.register(id="Numbers-v0", entry_point=Numbers)


def countdown(**options: Any) -> Env:
    return load("gymnasium", **{"id": "Countdown-v0", "split": "test", **options})


def test_an_episode_runs_to_its_end() -> None:
    env = countdown()
    text, info = env.reset(options={"task": env.tasks[0]})
    assert (info["score"], info["solved"], info["par"]) == (0.0, False, None)
    number = int(text.split()[-1].rstrip("."))
    for left in range(number, -1, -1):
        text, _, terminated, truncated, info = env.step(str(left))
        assert text == "Right."
    assert (terminated, truncated, info["solved"]) == (True, False, True)
    assert info["score"] == pytest.approx(1.0)
    with pytest.raises(RuntimeError):
        env.step("0")


def test_a_task_is_a_seed_and_splits_share_none() -> None:
    tasks = [set(countdown(split=split).tasks) for split in ("train", "dev", "test")]
    assert sum(map(len, tasks)) == len(set.union(*tasks)) == 1300
    env = countdown(kwargs={"most": 1000})
    starts = [env.reset(options={"task": task})[0] for task in [*env.tasks[:9], *env.tasks[:9]]]
    assert starts[:9] == starts[9:]
    assert len(set(starts)) > 5


def test_what_it_does_not_understand_costs_a_turn_and_the_limit_truncates() -> None:
    env = countdown(max_turns=3)
    env.reset()
    ends = [env.step(action) for action in ("", "<|end|>", "many words")]
    assert all(text == "Nothing happens." and not info["valid"] for text, *_, info in ends)
    assert [end[2:4] for end in ends] == [(False, False), (False, False), (False, True)]


def test_an_episode_goes_on_after_pickling() -> None:
    env = countdown()
    text, _ = env.reset()
    env.step(text.split()[-1].rstrip("."))
    other = pickle.loads(pickle.dumps(env))
    assert env.step("1") == other.step("1")


def test_an_environment_that_fails_breaks_its_episode_which_gets_no_score() -> None:
    env = countdown(kwargs={"broken": True})
    env.reset()
    with pytest.raises(WorldError, match="no such world"):
        env.step("1")


@pytest.mark.parametrize("name", [None, "NoSuchGame-v0", "Numbers-v0", "no_module:Game-v0"])
def test_environments_without_text_spaces_are_refused(name: str | None) -> None:
    with pytest.raises(UserError, match=r"env\.id="):
        countdown(id=name)


def test_actions_that_can_hold_no_blank_because_nobody_chose_their_characters_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"env\.id=Words-v0: .* no blank; .*Text\(max_length=40, charset=string.printable\)$"
    ):
        countdown(id="Words-v0")

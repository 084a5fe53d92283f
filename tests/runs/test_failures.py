"""A run that cannot come to a result ends with one line that says why: weights or rewards that are no numbers, a broken world."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pilotrl.__main__ import main
from pilotrl.envs import begun, stepped
from pilotrl.envs.toy import ToyEnv
from pilotrl.rewards.terms import score
from pilotrl.runs.failures import check_learned, check_played
from pilotrl.types import Episode, RunFailed, Task, UserError
from tests.conftest import Training


def test_weights_that_are_no_numbers_end_a_run(training: Callable[..., Training]) -> None:
    one = training(steps=1)
    one.fit()
    check_learned(one.module, 1)
    with torch.no_grad():
        next(p for p in one.module.parameters() if p.requires_grad).view(-1)[0] = math.nan
    with pytest.raises(RunFailed, match=r"^step 1: weights are no longer finite; .*train\.lr"):
        check_learned(one.module, 1)


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_so_does_a_loss_or_a_gradient(training: Callable[..., Training], name: str) -> None:
    one = training()
    one.module.metrics = {f"train/{name}": math.inf}
    with pytest.raises(RunFailed, match=rf"^step 3: {name} is inf; .*train\.lr"):
        check_learned(one.module, 3)


def episodes(broken: int, of: int) -> list[Episode]:
    task = Task("toy", "red", "train", 0)
    outcomes: list[Any] = ["broken"] * broken + ["failed"] * (of - broken)
    return [replace(Episode(task, 0, i, ""), outcome=outcome) for i, outcome in enumerate(outcomes)]


def test_a_share_of_broken_episodes_is_borne_and_no_more() -> None:
    check_played(episodes(4, of=8), 4, "step 1", "train.max_broken=0.5")
    check_played([], 0, "step 1", "train.max_broken=0.5")
    with pytest.raises(
        RunFailed, match=r"^step 1: 5 of 8 episodes are broken, more than train\.max_broken=0\.5; env=toy"
    ):
        check_played(episodes(5, of=8), 4, "step 1", "train.max_broken=0.5")
    check_played(episodes(7, of=8), 7, "evaluation")
    with pytest.raises(RunFailed, match=r"^evaluation: 8 of 8 episodes are broken; env=toy"):
        check_played(episodes(8, of=8), 7, "evaluation")


def test_a_run_that_fails_ends_with_its_line_and_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: Any, folder: Path) -> None:
        raise RunFailed("step 2: loss is nan; start again with a lower train.lr")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pilotrl"])
    monkeypatch.setitem(sys.modules, "pilotrl.runs.run", SimpleNamespace(run=run))  # type: ignore[misc]
    words = ["env=toy", "model=scratch", "tracking.uri=off"]
    assert main(words) == 1
    assert capsys.readouterr().err == "pilotrl: step 2: loss is nan; start again with a lower train.lr\n"
    assert main(["-m", *words, "seed=0,1"]) == 1
    assert "Traceback" not in capsys.readouterr().err


class Odd(ToyEnv):
    """Gives what it is told instead of what it should."""

    gives: Any = None

    def step(self, action: str) -> Any:
        return self.gives


TEXT, INFO = "Done.", {"score": 1.0, "solved": True, "valid": True}


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ((TEXT, 1.0, True, INFO), "gave 4 values; must give text, reward, terminated, truncated, info"),
        (None, "gave None; must give text, reward, terminated, truncated, info"),
        ((TEXT, 1.0, True, False, {"score": 1.0, "solved": True}), "has no valid; must have score, solved and valid"),
        ((TEXT, 1.0, True, False, {}), "has no score, solved, valid;"),
        ((TEXT, 1.0, True, False, None), "info as a dictionary"),
        ((3, 1.0, True, False, INFO), "must give a text first"),
        ((TEXT, math.nan, True, False, INFO), "reward=nan"),
        ((TEXT, 1.0, True, False, INFO | {"score": math.inf}), "score=inf"),
    ],
)
def test_an_environment_that_keeps_no_contract_is_named(gives: Any, says: str) -> None:
    env = Odd(split="train", max_turns=4, seed=0)
    begun(env, env.tasks[0])
    env.gives = gives
    with pytest.raises((UserError, RunFailed)) as error:
        stepped(env, "press[red]")
    assert str(error.value).startswith(f"env={Odd.__module__}.Odd: ")
    assert says in str(error.value)


def test_so_is_one_whose_reset_gives_a_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Odd(split="train", max_turns=4, seed=0)
    monkeypatch.setattr(env, "reset", lambda **given: "Press red.")
    with pytest.raises(UserError, match=r"Odd: reset\(\) gave 'Press red.'; must give a text and a dictionary, info"):
        begun(env, env.tasks[0])


def test_a_term_that_is_no_number_is_named() -> None:
    (one,) = episodes(0, of=1)
    given: Any = {
        "terms": ["mine"],
        "weights": {"mine": 1.0},
        "overlong_buffer": 0.2,
        "overlong_penalty": 1.0,
        "trains": {},
    }
    with pytest.raises(RunFailed, match=r"^reward\.terms\.mine: gave nan of an episode"):
        score(one, **given, own={"mine": lambda episode: math.nan})

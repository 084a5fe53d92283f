"""Environments that give something away are found by the players of `pilotrl/rollout/cheats.py`; it is said by whom and where."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console

from pilotrl import play
from pilotrl.config import trust
from pilotrl.envs import Info, chance, load, settings_of
from pilotrl.envs.toy import ToyEnv
from pilotrl.rollout.cheats import NULL, PLAYERS, always, constants, earned, earnings, given_away, played
from tests.envs.test_contract import NAMES

DOCS = Path(__file__).parents[2] / "docs"


class Farm(ToyEnv):
    """Pays for nothing but the words that it is weak for: with success, a score or a reward alone."""

    chance = 0.0
    weak = "done"
    pays = "solved"

    def __init__(self) -> None:
        super().__init__(split="test", max_turns=4, seed=0)
        self.score = 0.0

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        text, _, _, truncated, info = super().step("?")
        paid = self.weak in action and bool(action)
        self.score = max(float(paid and self.pays != "reward"), self.score if self.turn > 1 else 0.0)
        ended = paid and self.pays == "solved"
        self.over = ended or truncated
        info |= {"solved": ended, "score": self.score}
        return text, float(paid and self.pays == "reward") / 4, ended, truncated and not ended, info


def told(env: ToyEnv) -> dict[str, str]:
    """By player, what it is told to have earned."""
    lines = given_away(env, "farm", earnings(env, "farm", env.tasks[:6]))
    return {re.findall("a player that (.*) earns", line)[0]: line for line in lines}


def test_an_environment_that_gives_nothing_away_passes() -> None:
    env = Farm()
    env.weak = "no player says this"
    assert not told(env)


@pytest.mark.parametrize(
    ("weak", "who"),
    [
        ("done", "says that it is done"),
        ("finished the task", "says that it is done"),
        (", then ", "repeats the task"),
        ("push the", "says the step of the plan"),
        ("<|im_end|>", "sends control tokens"),
        ("press[", "names the goal"),
        ("press[red]", "always says press[red]"),
    ],
)
@pytest.mark.parametrize("pays", ["solved", "score", "reward"])
def test_an_environment_that_can_be_farmed_is_found(weak: str, who: str, pays: str) -> None:
    env = Farm()
    env.weak, env.pays = weak, pays
    found = told(env)
    assert who in found
    says = rf"farm: a player that {re.escape(who)} earns [01]\.\d\d in task [a-z-]+, and [01]\.\d\d on average over 6"
    assert re.match(says, found[who])


def test_an_environment_that_pays_for_silence_is_found() -> None:
    class Silent(Farm):
        def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
            text, reward, _, truncated, info = super().step(action)
            return text, reward, not action, truncated and bool(action), info | {"solved": not action}

    env = Silent()
    env.weak = "no player says this"
    assert {*told(env)} == {"says nothing"}


def test_chance_that_is_stated_is_granted_and_no_more() -> None:
    class Generous(Farm):
        chance = 0.3

    env, tasks = Generous(), [str(number) for number in range(25)]
    low, high = ({"guesses": {task: float(int(task) < solved) for task in tasks}} for solved in (13, 14))
    assert not given_away(env, "farm", low)  # 0.52, and two standard errors and a task above 0.3 are 0.523
    assert given_away(env, "farm", high)
    assert chance(env) == 0.3


def test_who_hurries_buys_the_first_thing_and_answers_whatever_there_is() -> None:
    for name, end in {"webshop": r"click\[buy now\]", "iqa": r"answer \[\w+\]"}.items():
        env = load(name, split="test")
        last = [played(env, name, task, PLAYERS["hurries to the end"]).turns[-1].action for task in env.tasks[:20]]
        assert sum(bool(re.fullmatch(end, action, re.I)) for action in last) > 10, last


def test_a_goal_is_named_with_the_verbs_that_there_are() -> None:
    env = load("textcraft", split="test")
    task = env.tasks[0]
    goal = env.reset(options={"task": task})[0].rpartition("Goal: craft ")[2].rstrip(".")
    said = [turn.action for one in env.tasks[:40] for turn in played(env, "", one, PLAYERS["names the goal"]).turns]
    assert any(action.startswith("get ") for action in said)
    assert any(action.endswith(goal) for action in said)


def test_what_ends_a_task_is_tried_as_the_one_action_of_an_episode() -> None:
    env = load("iqa", split="test")
    assert {"always says answer [True]", "always says answer [0]"} <= {*constants(env, env.tasks[:3])}
    episode = played(env, "iqa", env.tasks[0], always("look"))
    assert {turn.action for turn in episode.turns} == {"look"}


@pytest.mark.parametrize("name", [name for name in NAMES if (DOCS / f"{name}.md").is_file()])
def test_the_page_of_an_environment_states_what_was_measured(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text()
    table = page.partition("<!-- earned -->")[2].partition("<!-- /earned -->")[0]
    stated = {said.strip(): float(mean) for said, mean in re.findall(r"^\| (.*) \| ([\d.]+) \|$", table, re.M)}
    assert [*stated][: len(PLAYERS)] == [*PLAYERS]
    assert all(stated[said] == 0 for said in NULL)
    most = trust.find("_target_", settings_of(name)["_target_"]).chance  # type: ignore[attr-defined]
    assert max(stated.values()) <= most
    assert f"`chance` that the class states, {most} (" in page
    if name == "textcraft":  # again, which takes others longer
        env, player = load(name, split="test"), PLAYERS["hurries to the end"]
        again = fmean(earned(played(env, name, task, player)) for task in [*env.tasks][:200])
        assert stated["hurries to the end"] == round(again, 2)


def test_what_they_earn_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main(["env=toy", "cheat=20"]) == 0
    shown = capsys.readouterr().out
    assert "0.00  says that it is done" in shown
    assert "always says press[red]" in shown


@pytest.mark.parametrize("count", ["none", "0", "-1"])
def test_a_number_of_tasks_is_asked_for(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main(["env=toy", f"cheat={count}"]) == 2
    assert f"cheat={count}: must be a number of tasks above 0" in capsys.readouterr().err


def test_a_task_with_an_odd_name_is_printed_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Farm):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
            self.tasks = ["red-blue"]
            return super().reset(seed=seed)

    env, console = Odd(), Console(record=True, width=400)
    env.tasks = ["\x1b[2J"]
    config: Any = type("", (), {"env": {"_target_": "tests.envs.test_cheats.Odd"}})
    play.cheat(env, config, "1", console)
    shown = console.export_text()
    assert "\\x1b[2J" in shown
    assert "\x1b" not in shown

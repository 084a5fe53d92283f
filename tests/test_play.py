"""`python -m pilotrl.play`: actions typed by a person, help on request, and the end of an episode."""

from __future__ import annotations

import io
import re
from statistics import fmean

import pytest
from rich.console import Console

from pilotrl import play
from pilotrl.envs import load
from pilotrl.envs.toy import COLORS as BUTTONS
from pilotrl.envs.toy import ToyEnv
from pilotrl.rollout.task_schedule import drawn

TASK = load("toy").tasks[0]
COLORS = TASK.split("-")


def session(monkeypatch: pytest.MonkeyPatch, *said: str) -> str:
    """What the terminal shows."""
    lines = iter(said)
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    out = Console(file=io.StringIO(), width=100, highlight=False)
    play.command(["env=toy", f"task={TASK}"], out)
    shown = out.file
    assert isinstance(shown, io.StringIO)
    return shown.getvalue()


def test_a_person_plays_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = session(monkeypatch, *(f"press[{color}]" for color in COLORS))
    assert f"Press {COLORS[0]}, then" in shown
    assert f"solved, score 1.00, {len(COLORS)} turns" in shown


def test_help_is_given_on_request_and_costs_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = session(monkeypatch, "?", "plan", "hint", "quit")
    assert "press[red]" in shown
    assert f"1. push the {COLORS[0]} button" in shown
    assert f"press[{COLORS[0]}]" in shown
    assert "not solved, score 0.00, 0 turns" in shown


def test_an_environment_does_not_command_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ToyEnv, "reset", lambda *given, **options: ("\x1b[2J[red]\u202e", {"solved": False, "score": 0.0})
    )
    assert "\\x1b[2J[red]\\u202e" in session(monkeypatch, "quit")


def test_nothing_is_shown_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "push the" not in session(monkeypatch, "quit")


@pytest.mark.parametrize("line", ["env=nowhere", "env.max_turn=3", "task=none"])
def test_what_a_user_got_wrong_is_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main(["env=toy", line] if not line.startswith("env=") else [line]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_players_without_a_model_are_held_against_the_teachers_plans(capsys: pytest.CaptureFixture[str]) -> None:
    """The expert's exact steps are translated; one button at every turn is right as often as it is due."""
    assert play.main(["env=toy", "env.split=dev", "rule=8", "teacher.wording=exact"]) == 0
    rule, _, _, constant = capsys.readouterr().out.splitlines()
    assert rule == f"{'rule':<20} 8 of 8 solved, 100.0 %; adherence 100.0 %"

    def earned(color: str, task: str) -> float:
        """The share of an episode's turns that press the button that is due: it ends with the first that is not."""
        wrong = next((at for at, due in enumerate(task.split("-")) if due != color), None)
        return 1.0 if wrong is None else wrong / (wrong + 1)

    tasks = drawn("toy", load("toy", split="dev").tasks, 8)
    most = max(fmean(earned(color, task) for task in tasks) for color in BUTTONS)
    assert re.fullmatch(rf"always press\[\w+\] +\d of 8 solved, .*; adherence {100 * most:.1f} %", constant)
    assert 0 < most < 0.5

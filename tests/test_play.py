"""`python -m pilotrl.play`: actions typed by a person, help on request, and the end of an episode."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pilotrl import play
from pilotrl.envs import load
from pilotrl.envs.toy import ToyEnv

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

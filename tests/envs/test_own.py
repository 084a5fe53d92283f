"""An environment of one's own, as docs/environments.md says: one Python file and one YAML file, and nothing else."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from pilotrl import envs, play
from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.preflight import prepare
from pilotrl.cli.validate import check
from pilotrl.types import UserError
from tests.envs.page import written

PAGE = Path(__file__).parents[2] / "docs" / "environments.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the two files of the page."""
    written(PAGE, tmp_path)
    monkeypatch.delitem(sys.modules, "guess", raising=False)
    return tmp_path


def test_two_files_are_enough(folder: Path) -> None:
    arguments = parse(["-cd", str(folder), "env=guess", "env.max_turns=9"])
    config = composed_job(arguments, arguments.overrides).config
    check(config)
    env = envs.build({**config.env, "split": "test"})
    assert env.reset(options={"task": "z"})[0] == "Which letter is it?"
    assert env.step("m")[0] == "Later."
    assert env.step("z")[4]["solved"]


def test_it_can_be_played(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = iter(["m", "plan", "a"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    assert play.main(["-cd", str(folder), "env=guess", "task=a"]) == 0
    shown = capsys.readouterr().out
    assert "Earlier." in shown
    assert "ships no expert" in shown
    assert "solved, score 1.00, 2 turns" in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "stage.planner=teacher: guess ships no expert; set stage.planner=policy"),
        (["stage=warmstart"], "stage.actor=expert: guess ships no expert; choose a stage that the policy plays"),
        (["agent=react"], None),
        (["stage.planner=policy"], None),
    ],
)
def test_who_needs_an_expert_is_refused_before_anything_is_written(
    folder: Path, words: list[str], says: str | None
) -> None:
    command = ["-cd", str(folder), "env=guess", f"hydra.run.dir={folder / 'run'}", *words]
    with pytest.raises(UserError, match=says) if says else nullcontext():
        prepare(command)
    assert not (folder / "run").exists()


def test_a_key_that_it_does_not_know_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main(["-cd", str(folder), "env=guess", "env.turns=9"]) == 2
    assert "env.turns" in capsys.readouterr().err

"""A command ends in one line where a user, a world or a path is in the way, and never in a traceback of ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pilotrl import play, sync
from pilotrl.__main__ import main as run
from pilotrl.audit.__main__ import main as audit
from pilotrl.cli.exit_codes import ended, refusal
from pilotrl.report.__main__ import main as report
from pilotrl.types import UserError, WorldError


def test_what_a_user_can_mend_is_a_line_and_what_is_ours_is_not(tmp_path: Path) -> None:
    assert refusal(UserError("train.lr=-1: must be above 0")) == "train.lr=-1: must be above 0"
    assert refusal(WorldError("http://x: no answer\nand more")) == "http://x: no answer"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory") as caught:
        (tmp_path / "file" / "x").touch()
    assert str(refusal(caught.value)).startswith(f"{tmp_path}/file/x: Not a directory; ")
    assert refusal(OSError(5, "Input/output error", "x")) is None
    with pytest.raises(ZeroDivisionError):
        ended(lambda words: 1 / 0, [], None)


def test_who_interrupts_a_command_gets_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(words: Sequence[str]) -> None:
        raise KeyboardInterrupt

    assert ended(interrupted, [], None) == 130
    assert capsys.readouterr().err == "pilotrl: interrupted; give the same line again\n"


LONG = "x" * 300
COMMANDS: dict[str, Callable[[], int]] = {
    "play in a world that does not answer": lambda: play.main(["env=agentgym", "env.url=http://127.0.0.1:9"]),
    "report": lambda: report([LONG]),
    "audit": lambda: audit([LONG]),
    "sync": lambda: sync.main([LONG]),
    "root": lambda: run(["env=toy", f"root={LONG}"]),
    "resume": lambda: run([f"resume={LONG}"]),
    "parent": lambda: run(["env=toy", f"parent={LONG}"]),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_ends_with_2_and_one_line(
    command: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command() == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotrl: ")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []

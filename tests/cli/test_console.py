"""The script `pilotrl`: a run, or the command that its first word names."""

from __future__ import annotations

import sys

import pytest

from pilotrl import PACKAGE
from pilotrl.__main__ import COMMANDS, console


def test_every_command_is_known() -> None:
    found = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "types"}
    found |= {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert found == set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate"], "checkpoint: has no value"),
        (["report", "/nowhere"], "/nowhere"),
        (["train.stpes=4"], "the nearest is train.steps"),
        (["evalaute"], "evalaute"),
    ],
)
def test_the_first_word_chooses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["pilotrl", *words])
    assert console() == 2
    assert says in capsys.readouterr().err

"""The evaluation set is what its tasks are, not what they are called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilotrl import envs
from pilotrl.runs.evaluation_set import Panel
from pilotrl.types import UserError, WorldError

PANEL = Panel("toy", "test", ("a", "b"), 2, 0.6, 0.9, {"tokens": [1, 2, 3]}, ("11", "22"), "toy", ("", ""))


def kept(place: Path, panel: Panel = PANEL, **other: Any) -> Path:
    path = place / "panel.json"
    path.write_text(json.dumps(panel.record() | other))
    return path


def test_its_hash_is_over_contents() -> None:
    assert replace(PANEL, contents=("11", "23")).sha256 != PANEL.sha256 == replace(PANEL).sha256


def test_a_run_goes_on_with_the_same(tmp_path: Path) -> None:
    PANEL.check_same(kept(tmp_path))
    PANEL.check_same(kept(tmp_path, contents=["", "22"]))  # an environment that failed then
    replace(PANEL, contents=("11", "")).check_same(kept(tmp_path))  # and one that fails now


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"contents": ("11", "23")}, "1 of 2 tasks have other contents now, such as b"),
        ({"tasks": ("a", "c")}, "tasks would be others now"),
        ({"protocol": {"tokens": [1, 2, 4]}, "samples": 3}, "samples and protocol would be others now"),
    ],
)
def test_a_run_does_not_go_on_with_another(tmp_path: Path, now: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        replace(PANEL, **now).check_same(kept(tmp_path))


def test_a_digest_is_of_what_happens_and_not_of_a_name() -> None:
    one, other = envs.load("maze", split="test"), envs.load("maze", split="test")
    task, second = one.tasks[:2]
    assert envs.digest(one, task) == envs.digest(other, task) != envs.digest(one, second)

    class Renamed:
        tasks, max_turns, expert = ["x"], 4, None

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, envs.Info]:
            if options == {"task": "gone"}:
                raise WorldError("no answer")
            return "a door", {"score": 0.0, "solved": False, "valid": True}

        def step(self, action: str) -> tuple[str, float, bool, bool, envs.Info]:
            raise AssertionError("no expert, no step")

    assert envs.digest(Renamed(), "x") == envs.digest(Renamed(), "y") != ""
    assert envs.digest(Renamed(), "gone") == ""

"""Readability: from the command to the optimizer in three files, and all that a step does in 900 lines."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from pilotrl import PACKAGE
from tests.conftest import Training

WORLD = ("envs/", "rewards/judge/", "teacher/", "engine/", "config/", "prompts/chat.py", "rollout/stopwatch.py")
"""Environments, judges, teachers, engines and chat formats: each behind a protocol of a few methods, so that a reader of the
method can skip them. The inside of an engine only makes it fast, and changes no sample; nor does a stopwatch."""


@contextmanager
def called(into: set[CodeType]) -> Iterator[None]:
    """Collects the functions of the package that are called inside."""

    def note(frame: FrameType, event: str, _: object) -> None:
        inside = frame.f_code.co_filename.startswith(str(PACKAGE)) and frame.f_code.co_name[0] != "<"
        if event == "call" and inside:
            into.add(frame.f_code)

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def lines_of(code: CodeType) -> set[tuple[str, int]]:
    """Where a function stands, its docstring and comments too, without blank lines."""
    source, first = inspect.getsourcelines(code)
    return {(code.co_filename, first + place) for place, line in enumerate(source) if line.strip()}


def test_what_a_step_does_is_read_in_900_lines(tiny: Path) -> None:
    training, functions = Training(tiny), set[CodeType]()
    play, learn = training.source.batch, training.module.training_step

    def watched(function: Any) -> Any:
        def call(*given: Any) -> Any:
            with called(functions):
                return function(*given)

        return call

    training.source.batch, training.module.training_step = watched(play), watched(learn)  # type: ignore[method-assign]
    training.fit()
    lines = set().union(*(lines_of(code) for code in functions))
    method = {(file, line) for file, line in lines if not str(Path(file).relative_to(PACKAGE)).startswith(WORLD)}
    assert {"run_episodes", "episode_of", "collate", "advantages", "loss", "update"} <= {
        code.co_name for code in functions
    }
    assert len(method) <= 875, len(method)  # chat formats, which were counted, have had the rest


def test_from_the_command_to_the_optimizer_in_three_files() -> None:
    files = [PACKAGE / name for name in ("__main__.py", "runs/run.py", "training/module.py")]
    steps = ["from pilotrl.runs.run import run", "PilotModule(", "optimizer.step()"]
    assert [step in file.read_text() for file, step in zip(files, steps, strict=True)] == [True] * 3

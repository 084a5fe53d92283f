"""The task file: JSON lines, one task a line."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pilotrl.store.redact import in_one_line
from pilotrl.types import UserError

SPLITS = ("train", "dev", "test")


class McpTask(BaseModel):
    """A line of the task file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, max_length=200)
    split: Literal["train", "dev", "test"]
    instruction: str = Field(min_length=1)
    """What the model reads first."""
    answer: str | int | float | None = None
    """What it is to answer; None where a function decides."""
    check: Any = None
    """Whatever that function needs to know."""


def tasks_of(file: str, split: str, scored: bool) -> dict[str, McpTask]:
    """The tasks of a split by id, in the order of the file. scored: a function scores them, so that they need no answer.

    Raises UserError for a file that cannot be read, a line that is no task, and a split without tasks."""
    if split not in SPLITS:
        raise UserError(f"env.split={split}: must be one of {', '.join(SPLITS)}")
    try:
        about = os.stat(file)
        every = _read(file, about.st_mtime_ns, about.st_size)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"env.tasks_file={file}: cannot be read ({in_one_line(error)})") from error
    if not scored and (bare := next((task.id for task in every if task.answer is None), None)):
        raise UserError(
            f"env.tasks_file={file}: task {bare} has no answer; give it one, or a function, env.check=MODULE.NAME"
        )
    found = {task.id: task for task in every if task.split == split}
    if not found:
        raise UserError(f"env.tasks_file={file}: has no task of the split {split}; add some")
    return found


@lru_cache(maxsize=4)
def _read(file: str, changed: int, size: int) -> list[McpTask]:
    """All tasks of a file as it was at a time: one environment an episode would read it anew."""
    tasks, lines, seen = list[McpTask](), dict[str, int](), dict[str, str]()
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        where = f"env.tasks_file={file}: line {number}"
        try:
            task = McpTask.model_validate_json(line)
        except ValidationError as error:
            wrong = error.errors()[0]
            key = ".".join(str(part) for part in wrong["loc"][:1])
            raise UserError(f"{where}: {key + ': ' if key else ''}{in_one_line(wrong['msg'])}") from error
        if task.id in lines:
            raise UserError(f"{where}: task {task.id} stands in line {lines[task.id]} too; give each an id of its own")
        if seen.setdefault(task.instruction, task.split) != task.split:
            raise UserError(f"{where}: its instruction is one of the split {seen[task.instruction]} too; leave one out")
        lines[task.id] = number
        tasks.append(task)
    return tasks

"""`mlflow.json` in a run folder: what the run is called in MLflow, how much of it is shown, and what has been sent."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from pilotrl.store.reading import read_json, reason, unreadable
from pilotrl.store.redact import hide_credentials, without_secrets
from pilotrl.store.run_folder import write_whole

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Sent = Mapping[str, Any]
"""The contents of `mlflow.json`: a card, `uri`, `status`, and what MLflow has."""

STATE_FILE = "mlflow.json"
METRICS = "metrics.jsonl"
EPISODES = "episodes.jsonl"
TAIL = 1024
"""Bytes before a cursor by which a file that was cut back in between is told from one that only grew."""
START = {"bytes": 0, "tail": hashlib.sha256(b"").hexdigest()}
"""Cursor of a file of which nothing was sent."""


@dataclass(frozen=True)
class RunInfo:
    """What a run is called in MLflow, and how much of it is shown there."""

    experiment: str
    run_name: str
    params: Mapping[str, Any]
    """The resolved configuration, nested as it is; secrets in it are dropped before anything is kept or sent."""
    tags: Mapping[str, str]
    """Shown beside the run. `folder` and `starts_from` are in its description, too."""
    parent: str | None = None
    """Folder of the run whose weights this one started from."""
    judge: str = "judge"
    """Who gives verdicts."""
    traces: int = 0
    """Tasks of each evaluation whose first episode is shown as a trace; 0: no traces at all."""
    traces_every: int = 0
    """Steps between those of which a group of training episodes is shown, too; 0: none."""
    model_mb: float = 0.0
    """Weights of at most so many megabytes are copied to MLflow."""
    prompt_set: str = ""
    """What the configuration calls the prompts."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Their texts by the names of their files."""
    jobs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of a sweep, by the folder of each job below the sweep's own: the settings in which the jobs differ."""


class SyncState:
    """`mlflow.json` of a run folder. Two threads may use one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any]:
        """Raises UserError where the file is not there or was damaged."""
        path, remedy = (
            self.folder / STATE_FILE,
            "put a whole copy of it back, or delete it: the run is then a new one in MLflow",
        )
        sent = LATER | read_json(path, remedy)
        if not isinstance(sent.get("uri"), str):
            raise unreadable(path, "does not say where MLflow is", remedy)
        return sent

    def begin(self, uri: str, run_info: RunInfo) -> None:
        """The run begins, or goes on. Of it, what was sent before stays noted."""
        wanted = asdict(run_info) | {"params": without_secrets(run_info.params), "tags": dict(run_info.tags)}
        self.update(uri=hide_credentials(uri), status="RUNNING", ended=None, **wanted)

    def end(self, status: Status, when: float) -> None:
        """The run ended, `when` seconds after 1970."""
        self.update(status=status, ended=when)

    def update(self, **changes: Any) -> None:
        """Replaces the given keys; a crash leaves the old file or the new one."""
        with self._lock:
            path = self.folder / STATE_FILE
            new = {"created": time.time(), "id": uuid.uuid4().hex, "run_id": None} | sent_nothing()
            sent = (self.read() if path.exists() else new) | changes
            write_whole(path, json.dumps(sent, indent=1))

    def fresh(self, name: str, sent: Sent) -> tuple[int, list[bytes]]:
        """Complete lines of a file that were not sent, and the byte where they begin.

        That is 0 if the file no longer ends there as it did: the run was cut back to a checkpoint in between."""
        path, cursor = self.folder / name, sent[name]
        if not path.exists():
            return 0, []
        with path.open("rb") as file:
            start = cursor["bytes"] if _tail(file, cursor["bytes"]) == cursor["tail"] else 0
            file.seek(start)
            lines = file.read().splitlines(keepends=True)
        return start, [line for line in lines if line.endswith(b"\n")]  # the last may be half written

    def times(self) -> dict[int, float]:
        """When each step of training was over, in seconds since 1970, where metrics.jsonl says so."""
        _, lines = self.fresh(METRICS, {METRICS: START})
        known = parsed(self.folder / METRICS, lines)
        return {line["step"]: line["time"] for line in known if "step" in line and "time" in line}

    def move(self, name: str, sent: Sent, end: int) -> None:
        """All bytes of a file before `end` have arrived."""
        path = self.folder / name
        if path.exists():
            with path.open("rb") as file:
                cursor = {"bytes": end, "tail": _tail(file, end)}
            if cursor != sent[name]:
                self.update(**{name: cursor})


def parsed(path: Path, lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of complete lines of a file. Raises UserError for a line that is none."""
    for line in lines:
        try:
            yield dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise unreadable(path, f"holds a line that {reason(error)}") from error


def sent_nothing() -> dict[str, Any]:
    """The part of `mlflow.json` that says what MLflow has, for a run of which it has nothing."""
    none: dict[str, Any] = {"prompt_versions": None, "dataset": None, "jobs_sent": None, "notes": []}
    return {METRICS: START, EPISODES: START, "artifacts": {}, "model_id": None, "result": None} | none


LATER = {"prompt_set": "", "prompts": {}, "jobs": {}} | sent_nothing()
"""What a file lacks that an earlier version has written."""


def _tail(file: IO[bytes], end: int) -> str:
    file.seek(max(0, end - TAIL))
    return hashlib.sha256(file.read(min(TAIL, end))).hexdigest()

"""What MLflow has of a run folder, and how it gets the rest.

`metrics.jsonl` is the truth. `Feed.send` makes MLflow equal to the folder, however often it is called and wherever the
last call died: what was sent is remembered in `mlflow.json`, and MLflow itself drops a metric that it already has.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pilotrl.redact import hide_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

Status = Literal["RUNNING", "FINISHED", "FAILED"]

STATE = "mlflow.json"
METRICS = "metrics.jsonl"
ARTIFACTS = ("panel.json", "summary.json", "learning_curve.png")
"""Files of a run folder that MLflow gets as they are, once they exist, and again when they change."""
AXES = ("step", "time")
"""Keys of a line of metrics.jsonl that say where it stands: training step, and seconds since 1970."""
BATCH = 1000
"""Metrics that MLflow takes in one request ..."""
PARAMS = 100
"""... and parameters."""
QUIET = {"mlflow": logging.WARNING, "alembic": logging.WARNING, "urllib3.connectionpool": logging.ERROR}
"""Loggers, and from which level on they say what we do not say ourselves."""
SQLITE = "sqlite:///"


class State:
    """`mlflow.json`: what a run should be called in MLflow, and what of it has been sent. Two threads may use one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any]:
        """Raises OSError or ValueError where the file is not there or was damaged."""
        state: dict[str, Any] = json.loads((self.folder / STATE).read_text())
        return state

    def update(self, **changes: Any) -> None:
        """Replaces the given keys; a crash leaves the old file or the new one."""
        with self._lock:
            path = self.folder / STATE
            new = {"created": time.time(), "run_id": None} | sent_nothing()
            state = (self.read() if path.exists() else new) | changes
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps(state, indent=1))
            draft.replace(path)


class Feed:
    """What MLflow has of one run folder, and how the rest gets there.

    uri: where MLflow is, with credentials if it needs them; they are kept in memory only."""

    def __init__(self, state: State, uri: str) -> None:
        self._state = state
        self._uri = uri
        self._client: MlflowClient | None = None
        self._status: Status | None = None

    def send(self) -> None:
        """Sends what MLflow has not: parameters, complete lines of metrics, files, status.

        Raises whatever MLflow raises; what had arrived by then is not sent again."""
        if self._client is None:
            self._client = self._open()
        state = self._state.read()
        self._send_metrics(self._client, state)
        self._send_artifacts(self._client, state)
        self._send_status(self._client, state)

    def complaint(self, error: BaseException) -> str:
        """One line about what went wrong, without credentials: its first cause, in the words of that."""
        while cause := error.__cause__ or error.__context__:
            error = cause
        reason = str(error).strip().partition("\n")[0][:200].replace(self._uri, "it")
        return f"MLflow at {hide_credentials(self._uri)} failed ({type(error).__name__}: {hide_credentials(reason)})"

    def _open(self) -> MlflowClient:
        """A client whose run exists and has its parameters."""
        state = self._state.read()
        with _alone(self._uri):
            client = _client(self._uri)
            experiment = _experiment(client, state["experiment"], self._uri)
        run = _find_run(client, state["run_id"])
        if run is None:
            start = int(1000 * state["created"])
            run = client.create_run(experiment, start_time=start, tags=state["tags"], run_name=state["run_name"])
            self._state.update(run_id=run.info.run_id, **sent_nothing())
        _send_params(client, run, state["params"])
        self._status = run.info.status
        return client

    def _send_metrics(self, client: MlflowClient, state: Mapping[str, Any]) -> None:
        """From where the last call ended. From the start if the file no longer begins with what was sent: the run was
        cut back to a checkpoint. MLflow drops what it has, and of steps that were played again it shows the later."""
        path = self._state.folder / METRICS
        text = path.read_bytes() if path.exists() else b""
        text = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        sent = state["bytes"] if _sha256(text[: state["bytes"]]) == state["sha256"] else 0
        if sent == len(text):
            return
        lines = map(json.loads, text[sent:].splitlines())
        metrics = [metric for line in lines for metric in _metrics(line, state["created"])]
        for start in range(0, len(metrics), BATCH):
            client.log_batch(state["run_id"], metrics=metrics[start : start + BATCH])
        self._state.update(bytes=len(text), sha256=_sha256(text))

    def _send_artifacts(self, client: MlflowClient, state: Mapping[str, Any]) -> None:
        sent = dict(state["artifacts"])
        if "config.yaml" not in sent:
            client.log_dict(state["run_id"], state["params"], "config.yaml")
            sent["config.yaml"] = 0
        for path in (self._state.folder / name for name in ARTIFACTS):
            if path.exists() and sent.get(path.name) != (changed := path.stat().st_mtime_ns):
                client.log_artifact(state["run_id"], str(path))
                sent[path.name] = changed
        if sent != state["artifacts"]:
            self._state.update(artifacts=sent)

    def _send_status(self, client: MlflowClient, state: Mapping[str, Any]) -> None:
        if state["status"] == self._status:
            return
        if state["status"] == "RUNNING":
            client.update_run(state["run_id"], "RUNNING")
        else:
            client.set_terminated(state["run_id"], state["status"])  # which notes the time, too
        self._status = state["status"]


def absolute(uri: str) -> str:
    """The uri with a relative sqlite path counted from the working folder, so that it means the same from any other."""
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def sent_nothing() -> dict[str, Any]:
    """The part of `mlflow.json` that says what MLflow has, for a run of which it has nothing."""
    return {"bytes": 0, "sha256": _sha256(b""), "artifacts": {}}


def _client(uri: str) -> MlflowClient:
    """MLflow's client. Unless the user says otherwise it gives up on a dead server within seconds, and is quiet."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient  # seconds to import: in the thread, not in front of the first step

    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(uri)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time creates the tables of a sqlite file: MLflow's migrations collide when run side by side."""
    if not uri.startswith(SQLITE):
        yield
        return
    path = Path(uri.removeprefix(SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, by a crash as well
        yield


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Id of the experiment. A new one keeps its files beside the sqlite file, a server's where the server says."""
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    place = str(Path(uri.removeprefix(SQLITE)).parent / "mlartifacts") if uri.startswith(SQLITE) else None
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except MlflowException:  # somebody else made it meanwhile, or there is a real reason
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)


def _find_run(client: MlflowClient, run_id: str | None) -> Run | None:
    """The run that this folder was sent to; None if it never was, or MLflow no longer has it."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _send_params(client: MlflowClient, run: Run, params: Mapping[str, Any]) -> None:
    """Those that the run has not: MLflow refuses to change one, and a resumed run may differ in some."""
    from mlflow.entities import Param

    new = [Param(key, str(value)) for key, value in flatten(params).items() if key not in run.data.params]
    for start in range(0, len(new), PARAMS):
        client.log_batch(run.info.run_id, params=new[start : start + PARAMS])


def _metrics(line: Mapping[str, Any], created: float) -> list[Metric]:
    """The numbers of one line, at its own step and time: the same whenever they are sent, so that none counts twice."""
    from mlflow.entities import Metric

    when = int(1000 * line.get("time", created))
    numbers = {key: value for key, value in line.items() if key not in AXES and isinstance(value, int | float)}
    return [Metric(key, float(value), when, line["step"]) for key, value in numbers.items()]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train": {"lr": 1}}` -> `{"train.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()

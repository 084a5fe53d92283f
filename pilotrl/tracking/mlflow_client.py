"""Where MLflow is: how it is reached, and the experiment and the run in it that a run folder belongs to."""

from __future__ import annotations

import fcntl
import getpass
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from pilotrl.store.redact import hide_credentials, in_one_line, secrets_in
from pilotrl.store.run_folder import above

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SQLITE = "sqlite:///"
FOLDER_KEY = "mlflow.pilotrl.folder"
"""Tag by which a run folder finds its run again, where a crash kept it from noting which that was. MLflow's page does not
show what begins with its own name."""
EXPERIMENT = {
    "mlflow.experimentKind": "custom_model_development",  # opens with the list of runs, not with statistics of traces
    "mlflow.note.content": "Runs of PilotRL. `panel/*` compares before and after on held-out tasks; `reward/*`, `env/*`, "
    "`train/*`, `tokens/*`, `seconds/*` and `speed/*` have one point a training step; `eval/*` of a sweep has one for each of "
    "its jobs. docs/metrics.md says what each number means.",
}
"""Tags of an experiment that we make."""
IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ASYNC_TRACE_LOGGING_RETRY_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Unless the user says otherwise the client gives up on a dead server within seconds, and talks to nobody else."""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Variables from which MLflow's client reads who it is."""
QUIET = {"mlflow": logging.WARNING, "alembic": logging.WARNING, "urllib3.connectionpool": logging.ERROR}
"""Loggers, and from which level on they say what we do not say ourselves."""
GONE = "RESOURCE_DOES_NOT_EXIST"
"""Code of an error of MLflow's."""


def absolute(uri: str, here: Path = Path()) -> str:
    """The uri with a relative sqlite path counted from a folder, by default the working one, so that it means the same from any
    other."""
    return f"{SQLITE}{(here / uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def is_default(uri: str, folder: Path) -> bool:
    """Whether an address that a run folder names needs no typing: no tracking at all, or the database that runs have by
    default, `mlflow.db` or `multirun/mlflow.db` in a folder above the run or in the working folder."""
    path = Path(uri.removeprefix(SQLITE)).resolve()
    places = {Path.cwd().resolve(), *above(folder)}
    near = path.parent in places or (path.parent.name == "multirun" and path.parent.parent in places)
    return uri in ("None", "off") or (uri.startswith(SQLITE) and path.name == "mlflow.db" and near)


def sync_command(folder: Path, uri: str) -> str:
    """What sends to MLflow the rest of a run: an address other than the default one is typed."""
    typed = [] if is_default(uri, folder) else ["--uri", hide_credentials(uri)]
    return shlex.join(["python", "-m", "pilotrl.sync", str(folder), *typed])


def check_near(place: str, uri: str) -> None:
    """Raises OSError where a database that a folder names keeps files elsewhere than beside itself."""
    path, root = Path(urlsplit(place).path), Path(uri.removeprefix(SQLITE)).resolve().parent
    if urlsplit(place).scheme not in ("", "file") or urlsplit(place).netloc or not path.resolve().is_relative_to(root):
        raise PermissionError(
            f"it keeps files in {hide_credentials(place)}, which counts only where its address is typed"
        )


def load() -> None:
    """Import MLflow, which takes seconds: in a thread, and while others may use a sqlite file."""
    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)


def connect(uri: str) -> MlflowClient:
    """MLflow's client. A new sqlite file gets its tables beside its place first: MLflow makes them one by one, and takes up no
    file in which a kill left only some. To be called `alone`."""
    from mlflow import MlflowClient

    path = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not path.exists():
        for left in path.parent.glob(f"{path.name}.new-*"):  # of a kill: half a file, and sqlite's journal of it
            left.unlink()
        draft = path.with_name(f"{path.name}.new-{uuid4().hex[:8]}")  # a new name: MLflow keeps connections by name
        MlflowClient(f"{SQLITE}{draft}")
        draft.replace(path)
    return MlflowClient(uri)


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """One process at a time writes to a sqlite file: side by side, MLflow's migrations collide and writers starve."""
    if not uri.startswith(SQLITE):
        yield
        return
    path = Path(uri.removeprefix(SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, by a crash as well
        yield


def complaint(uri: str, error: BaseException) -> str:
    """One line about what went wrong, without credentials: its first cause, in the words of that."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    known = (os.environ.get(name, "") for name in SECRETS)
    reason = in_one_line(str(error).strip().partition("\n")[0].replace(uri, "it"), *secrets_in(uri), *known)
    return f"MLflow at {hide_credentials(uri)} failed ({type(error).__name__}: {reason})"


def unreachable(error: BaseException) -> bool:
    """Whether MLflow was not there to answer, and may be later; else it did, and will not take what it was sent."""
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    return any(isinstance(each, OSError) for each in causes)  # all of requests' errors are of that kind


def experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Id of the experiment. A new one keeps its files beside the sqlite file, a server's where the server says."""
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    place = str(Path(uri.removeprefix(SQLITE)).parent / "mlartifacts") if uri.startswith(SQLITE) else None
    try:
        return str(client.create_experiment(name, artifact_location=place, tags=EXPERIMENT))
    except MlflowException:  # somebody else made it meanwhile, or there is a real reason
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)


def find_run(client: MlflowClient, experiment: str, run_id: str | None, folder_id: str) -> Run | None:
    """The run that a folder was sent to; None if it never was, or this MLflow no longer has it."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != GONE:
            raise
        run = None
    if run is not None and run.info.lifecycle_stage == "active":
        return run
    made = client.search_runs([experiment], f"tags.`{FOLDER_KEY}` = '{folder_id}'", max_results=1)
    return made[0] if made else None


def create_run(
    client: MlflowClient, experiment: str, name: str, created: float, folder_id: str, tags: Mapping[str, str]
) -> Run:
    """A run that began `created` seconds after 1970."""
    own = {FOLDER_KEY: folder_id, "mlflow.source.name": "python -m pilotrl", "mlflow.source.type": "LOCAL"}
    with suppress(KeyError, OSError):  # nobody, in some containers
        own["mlflow.user"] = getpass.getuser()
    return client.create_run(experiment, start_time=int(1000 * created), tags={**own, **tags}, run_name=name)


def send_params(client: MlflowClient, run: Run, params: Mapping[str, Any]) -> None:
    """Those that have a value and that the run has not: MLflow refuses to change one, and a resumed run may differ."""
    from mlflow.entities import Param

    given = {key: str(value) for key, value in flatten(params).items() if value is not None}
    new = [Param(key, value) for key, value in given.items() if key not in run.data.params]
    for start in range(0, len(new), PARAMS):
        client.log_batch(run.info.run_id, params=new[start : start + PARAMS])


def send_files(uri: str, run_id: str, files: Sequence[Path], near: bool = False) -> None:
    """Gives a run of MLflow some files, each under the name of its folder; near: where that keeps them beside its database.

    Raises whatever MLflow raises."""
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise FileNotFoundError("the database is gone")  # which MLflow would make anew, and empty
    load()
    client = connect(uri)
    if near:
        check_near(client.get_run(run_id).info.artifact_uri, uri)
    for path in files:
        client.log_artifact(run_id, str(path), path.resolve().parent.name)


PARAMS = 100
"""Parameters that MLflow takes in one request."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train": {"lr": 1}}` -> `{"train.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat

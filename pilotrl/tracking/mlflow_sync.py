"""Makes MLflow equal to a run folder, however often it is called and wherever the last call died.

The folder is the truth: metrics.jsonl, episodes.jsonl, summary.json, policy/. What was sent is remembered in
`mlflow.json`; what is sent a second time has the name that it had the first time, so that MLflow has it once.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pilotrl.store.reading import read_json
from pilotrl.store.redact import hide_credentials
from pilotrl.store.run_folder import is_inside
from pilotrl.tracking import evaluation_dataset, mlflow_client, model_registry, prompt_registry, sweeps
from pilotrl.tracking.evaluation_dataset import EvaluationSet
from pilotrl.tracking.run_description import description, panel_points
from pilotrl.tracking.sync_state import EPISODES, METRICS, Sent, Status, SyncState, parsed, sent_nothing
from pilotrl.tracking.traces import Traces, is_shown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)
T = TypeVar("T")

SUMMARY = "summary.json"
PANEL = "panel.json"
"""The evaluation set."""
DATASET = "its evaluation dataset"
"""What a warning calls it where MLflow does not take it."""
JOBS = "jobs.json"
"""A sweep's table of its jobs, among its files."""
TABLES = "mlflow.loggedArtifacts"
"""The tag that says which files MLflow shows as tables."""
ARTIFACTS = (PANEL, SUMMARY, "learning_curve.png", "report.html")
"""Files of a run folder that MLflow gets as they are, once they exist, and again when they change."""
AXES = ("step", "time")
"""Keys of a line of metrics.jsonl that say where it stands: training step, and seconds since 1970."""
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""
BATCH = 1000
"""Metrics that MLflow takes in one request."""
TRACES = 16
"""Traces whose spans go in one request."""


class MlflowSync:
    """What MLflow has of one run folder, and how the rest gets there.

    uri: where MLflow is, with credentials if it needs them; they are kept in memory only.
    near: nobody has typed that address: files are only kept beside its database."""

    def __init__(self, sync_state: SyncState, uri: str, near: bool = False) -> None:
        self._near = near
        self._ledger = sync_state
        self._folder = sync_state.folder
        self._uri = uri
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._sweep = model_registry.sweep_of(self._folder)
        self._status: Status | None = None
        self._refused: set[str] = set()

    def send(self) -> None:
        """Sends what MLflow has not: parameters, complete lines of metrics, traces, files, the result, status.

        Raises whatever MLflow raises; what had arrived by then does not count twice when it is sent again."""
        mlflow_client.load()
        with mlflow_client.alone(self._uri):
            client, self._client = self._client or self._open(), None
            sent = self._ledger.read()
            self._send_place(client, sent)
            self._send_metrics(client, sent)
            self._send_prompts(client, sent)
            self._send_dataset(client, sent)
            sent = self._ledger.read()
            self._send_traces(client, sent)
            self._send_files(client, sent)
            self._send_result(client, sent)
            self._send_jobs(client, sent)
            self._send_status(client, sent)
            self._client = (
                client  # kept when all went well: else whatever MLflow is when it comes back is looked at anew
            )

    def complaint(self, error: BaseException) -> str:
        """One line about what went wrong, without credentials."""
        return mlflow_client.complaint(self._uri, error)

    def _open(self) -> MlflowClient:
        """A client whose run exists, has its parameters, and says whose weights it started from."""
        client, sent = mlflow_client.connect(self._uri), self._ledger.read()
        self._experiment = mlflow_client.experiment(client, sent["experiment"], self._uri)
        run = mlflow_client.find_run(client, self._experiment, sent["run_id"], sent["id"]) or self._create(client, sent)
        if self._near:
            mlflow_client.check_near(client.get_experiment(self._experiment).artifact_location, self._uri)
            mlflow_client.check_near(run.info.artifact_uri, self._uri)
        if run.info.run_id != sent["run_id"]:
            self._ledger.update(uri=hide_credentials(self._uri), run_id=run.info.run_id, **sent_nothing())
        mlflow_client.send_params(client, run, sent["params"])
        if (parent := model_registry.parent_in(self._uri, sent["parent"])) is not None:
            model_registry.link_parent(client, run, parent)
        self._status = run.info.status
        return client

    def _create(self, client: MlflowClient, sent: Sent) -> Run:
        tags = {**sent["tags"], NOTE: description(sent["tags"], {})}
        return mlflow_client.create_run(client, self._experiment, sent["run_name"], sent["created"], sent["id"], tags)

    def _send_place(self, client: MlflowClient, sent: Sent) -> None:
        """Below the run of its sweep, as soon as that is in MLflow, which may be later than this one."""
        if self._sweep and (sweep := model_registry.parent_in(self._uri, str(self._sweep))) is not None:
            client.set_tag(sent["run_id"], "mlflow.parentRunId", sweep.run_id)
            self._sweep = None

    def _send_metrics(self, client: MlflowClient, sent: Sent) -> None:
        """MLflow drops what it has, and of steps that were played again it shows the later."""
        start, lines = self._ledger.fresh(METRICS, sent)
        metrics = [
            metric for line in parsed(self._folder / METRICS, lines) for metric in _metrics(line, sent["created"])
        ]
        for first in range(0, len(metrics), BATCH):
            client.log_batch(sent["run_id"], metrics=metrics[first : first + BATCH])
        self._ledger.move(METRICS, sent, start + sum(map(len, lines)))

    def _attempt(self, what: str, sent: Sent, send: Callable[[], T]) -> T | None:
        """What `send` returns; None, and one warning, where MLflow cannot keep such a thing: nothing else waits for it.

        It is tried again when the run is over. Raises what `send` does while MLflow is not there at all."""
        if what in self._refused and sent["status"] == "RUNNING":
            return None
        try:
            return send()
        except Exception as error:
            if mlflow_client.unreachable(error):
                raise
            if what not in self._refused:
                log.warning("%s; it has everything of this run but %s", self.complaint(error), what)
            self._refused.add(what)
        return None

    def _send_prompts(self, client: MlflowClient, sent: Sent) -> None:
        """The texts that the run plays with, and on the run's page which versions of them."""
        if not sent["prompts"] or sent["prompt_versions"] is not None:
            return

        def send() -> None:
            given, model = (sent["prompt_set"], sent["prompts"]), sent["tags"].get("model", "")
            versions = prompt_registry.send_prompts(client, self._experiment, *given, model)
            for tag, value in prompt_registry.linked(versions).items():
                client.set_tag(sent["run_id"], tag, value)
            self._ledger.update(prompt_versions=versions)

        self._attempt("its prompts", sent, send)

    def _send_dataset(self, client: MlflowClient, sent: Sent) -> None:
        """The evaluation set, as a dataset of MLflow's where it has those, and as an input of the run."""
        waits = DATASET in self._refused and sent["status"] == "RUNNING"
        if waits or sent["dataset"] is not None or (panel := self._evaluation_set()) is None:
            return
        made = self._attempt(DATASET, sent, lambda: evaluation_dataset.send_dataset(client, self._experiment, panel))
        run = client.get_run(sent["run_id"])
        self._attempt(DATASET, sent, lambda: evaluation_dataset.link_run(client, run, panel, made))
        if made is not None:
            self._ledger.update(dataset=made.dataset_id)

    def _evaluation_set(self) -> EvaluationSet | None:
        if not (self._folder / PANEL).exists():  # not there yet
            return None
        try:
            return EvaluationSet.of(read_json(self._folder / PANEL))
        except (ValueError, KeyError):  # an older kind
            return None

    def _send_traces(self, client: MlflowClient, sent: Sent) -> None:
        """The episodes of the sample, a few at a time; those of a training step once it is over and has its time."""
        if not sent["traces"]:
            return
        end, lines = self._ledger.fresh(EPISODES, sent)
        times = self._ledger.times() if lines else {}
        versions = sent["prompt_versions"] or []
        prompts = prompt_registry.linked(versions)
        traces = Traces(self._uri, self._experiment, sent["run_id"], sent["judge"], prompts)

        def send() -> None:
            made = traces.send()
            if versions and made:
                what = "the link from traces to prompts"
                self._attempt(what, sent, lambda: prompt_registry.link_traces(client, made, versions))
            self._ledger.move(EPISODES, sent, end)

        for line, record in zip(lines, parsed(self._folder / EPISODES, lines), strict=True):
            if is_shown(record, sent["traces"], sent["traces_every"]):
                if (when := _when(record, times, sent)) is None:
                    break
                traces.add(record, when)
            end += len(line)
            if len(traces) == TRACES:
                send()
        send()

    def _send_files(self, client: MlflowClient, sent: Sent) -> None:
        there = dict(sent["artifacts"])
        if "config.yaml" not in there:
            client.log_dict(sent["run_id"], sent["params"], "config.yaml")
            there["config.yaml"] = 0
        for path in (self._folder / name for name in ARTIFACTS):
            if is_inside(path, self._folder) and there.get(path.name) != (changed := path.stat().st_mtime_ns):
                client.log_artifact(sent["run_id"], str(path))
                there[path.name] = changed
        if there != sent["artifacts"]:
            self._ledger.update(artifacts=there)

    def _send_result(self, client: MlflowClient, sent: Sent) -> None:
        """What is there once summary.json is, which is written last: the policy, its panels, what it gained."""
        path = self._folder / SUMMARY
        if not is_inside(path, self._folder) or sent["result"] == (result := path.stat().st_mtime_ns):
            return
        summary = read_json(path)
        model = model_registry.send_model(client, self._experiment, sent, summary, self._folder / "policy")
        if model and (prompts := prompt_registry.linked(sent["prompt_versions"] or [])):
            client.set_logged_model_tags(model, prompts)
        over, panel = max(self._ledger.times().values(), default=sent["created"]), self._evaluation_set()
        points = [
            _metric(name, value, step, over, model, panel) if step else _metric(name, value, step, sent["created"])
            for name, value, step in panel_points(summary)
        ]
        client.log_batch(sent["run_id"], metrics=points)
        self._send_note(client, sent, description(sent["tags"], summary))
        self._ledger.update(result=result, model_id=model)

    def _send_jobs(self, client: MlflowClient, sent: Sent) -> None:
        """Of a sweep: what became of its jobs, as points, as a table and in the description, whenever that changes."""
        if not sent["jobs"]:
            return
        jobs = sweeps.jobs_of(self._folder, sent["jobs"])
        if (marks := [job.mark for job in jobs]) == sent["jobs_sent"]:
            return
        points = [_metric(*point, when) for point, when in sweeps.points(jobs, sent["created"])]
        for first in range(0, len(points), BATCH):
            client.log_batch(sent["run_id"], metrics=points[first : first + BATCH])
        client.log_dict(sent["run_id"], sweeps.table(jobs), JOBS)
        client.set_tag(sent["run_id"], TABLES, json.dumps([{"path": JOBS, "type": "table"}]))
        self._send_note(client, sent, sweeps.description(sent["tags"]["folder"], jobs))
        self._ledger.update(jobs_sent=marks)

    def _send_note(self, client: MlflowClient, sent: Sent, text: str) -> None:
        """The description, unless somebody has written another than those that were sent before."""
        there = client.get_run(sent["run_id"]).data.tags.get(NOTE, "")
        if there != text and (there == description(sent["tags"], {}) or _digest(there) in sent["notes"]):
            self._ledger.update(notes=[*sent["notes"][-1:], _digest(text)])  # before: a crash in between is harmless
            client.set_tag(sent["run_id"], NOTE, text)

    def _send_status(self, client: MlflowClient, sent: Sent) -> None:
        if sent["status"] == self._status:
            return
        if sent["status"] == "RUNNING":
            client.update_run(sent["run_id"], "RUNNING")
        else:
            client.set_terminated(sent["run_id"], sent["status"], int(1000 * sent["ended"]))
        self._status = sent["status"]


def _metrics(line: Mapping[str, Any], created: float) -> list[Metric]:
    """The numbers of one line, at its own step and time: the same whenever they are sent, so that none counts twice."""
    numbers = {key: value for key, value in line.items() if key not in AXES and isinstance(value, int | float)}
    return [_metric(key, value, line["step"], line.get("time", created)) for key, value in numbers.items()]


def _metric(
    name: str, value: float, step: int, when: float, model: str | None = None, panel: EvaluationSet | None = None
) -> Metric:
    """A point; `when` in seconds since 1970; `model` is the one that was measured, `panel` what it was measured on."""
    from mlflow.entities import Metric

    on = {"dataset_name": panel.name, "dataset_digest": panel.digest} if model and panel else {}
    return Metric(name, float(value), int(1000 * when), step, model_id=model, **on)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _when(record: Mapping[str, Any], times: Mapping[int, float], sent: Sent) -> float | None:
    """When an episode was played, as far as anybody noted: with its step, or before the first or after the last.

    None: its step is not over yet."""
    known = max(times.values(), default=sent["created"])
    if record["phase"] == "train":
        return times.get(record["step"], None if sent["status"] == "RUNNING" else known)
    return sent["created"] if record["phase"].startswith("before") else known

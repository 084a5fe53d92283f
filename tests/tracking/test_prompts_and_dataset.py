"""What a run refers to and shares with others: the wordings of its prompts, and its evaluation set."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pilotrl.tracking.mlflow_sync import MlflowSync
from pilotrl.tracking.sync_state import EPISODES, METRICS, START, RunInfo, SyncState

Finished = Callable[[Path], SyncState]
PANEL = {"env": "toy", "split": "test", "tasks": ["red", "red-blue"], "samples": 2, "sha256": "0123456789abcdef" * 4}
DIGEST = str(PANEL["sha256"])[:36]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture
def sent(
    finished: Finished, tmp_path: Path, uri: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SyncState]:
    """Sends a run that is over, in an experiment and with a set of prompts of the test's own; a second time the same run."""
    monkeypatch.chdir(tmp_path)

    def send(name: str = "run", panel: dict[str, Any] = PANEL, model: str = "nano", **texts: str) -> SyncState:
        place = tmp_path / name
        state = SyncState(place) if place.exists() else finished(place)
        (place / "panel.json").write_text(json.dumps(panel))
        info = RunInfo(request.node.name, name, {}, {"model": model, "folder": name}, traces=1)
        state.begin(
            uri, replace(info, prompt_set=f"{request.node.name}/{tmp_path.name}", prompts=texts or {"act": "Act."})
        )
        state.end("FINISHED", 1.9e9)
        MlflowSync(state, uri).send()
        return state

    return send


def prompts(client: MlflowClient, state: SyncState) -> dict[str, str]:
    """The texts that a run's page links to, by the last word of their names."""
    tag = client.get_run(state.read()["run_id"]).data.tags["mlflow.linkedPrompts"]
    return {
        one["name"].rpartition("-")[2]: client.get_prompt_version(one["name"], one["version"]).template
        for one in json.loads(tag)
    }


def test_a_wording_is_one_version_whoever_plays_with_it(sent: Callable[..., SyncState], client: MlflowClient) -> None:
    first = sent("first", plan="Plan {next}.", act="Act.")
    second = sent("second", plan="Plan {next}, please.", act="Act.", model="smollm2")
    third = sent("third", plan="Plan {next}.", act="Act.")
    assert prompts(client, first) == prompts(client, third) == {"plan": "Plan {next}.", "act": "Act."}
    assert prompts(client, second) == {"plan": "Plan {next}, please.", "act": "Act."}
    plan, act = (one["name"] for one in first.read()["prompt_versions"])
    assert len(client.search_prompt_versions(plan)) == 2
    (version,) = client.search_prompt_versions(act)
    assert version.tags["model"] == "nano, smollm2"


def test_a_trace_is_found_by_its_prompts(sent: Callable[..., SyncState], client: MlflowClient) -> None:
    state = sent()
    run = client.get_run(state.read()["run_id"])
    (version,) = state.read()["prompt_versions"]
    wanted = f'prompt = "{version["name"]}/{version["version"]}"'
    found = client.search_traces(locations=[run.info.experiment_id], filter_string=wanted)
    assert len(found) == 2
    assert {trace.info.tags["mlflow.linkedPrompts"] for trace in found} == {json.dumps([version])}
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.tags["mlflow.linkedPrompts"] == json.dumps([version])


def test_runs_on_one_evaluation_set_share_its_dataset(sent: Callable[..., SyncState], client: MlflowClient) -> None:
    first, second = sent("first"), sent("second")
    sent("third", {**PANEL, "tasks": ["red"], "sha256": "f" * 64})
    assert first.read()["dataset"] == second.read()["dataset"]
    run = client.get_run(second.read()["run_id"])
    known = client.search_datasets([run.info.experiment_id])
    assert sorted(dataset.name for dataset in known) == ["toy-test-1x2-ffffffff", "toy-test-2x2-01234567"]
    records, _ = client._tracking_client.store._load_dataset_records(first.read()["dataset"])
    assert sorted(record.inputs["task"] for record in records) == ["red", "red-blue"]
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("toy-test-2x2-01234567", DIGEST)
    assert json.loads(given.dataset.source)["dataset_id"] == first.read()["dataset"]
    assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "eval"}


def test_a_policy_says_what_it_was_measured_on(sent: Callable[..., SyncState], client: MlflowClient) -> None:
    run = client.get_run(sent().read()["run_id"])
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert {(metric.dataset_name, metric.dataset_digest) for metric in model.metrics} == {
        ("toy-test-2x2-01234567", DIGEST)
    }


def test_sent_twice_it_is_the_same(sent: Callable[..., SyncState], client: MlflowClient, tmp_path: Path) -> None:
    def there(state: SyncState) -> Any:
        run = client.get_run(state.read()["run_id"])
        datasets = client.search_datasets([run.info.experiment_id])
        names = [one["name"] for one in state.read()["prompt_versions"]]
        versions = [len(client.search_prompt_versions(name)) for name in names]
        traces = client.search_traces(locations=[run.info.experiment_id])
        kept = [(one.name, one.digest, one.profile) for one in datasets]
        return run.inputs.to_dictionary(), run.data.tags, kept, versions, [trace.to_dict() for trace in traces]

    once = there(sent())
    forgotten = {METRICS: START, EPISODES: START, "result": None, "prompt_versions": None, "dataset": None}
    SyncState(tmp_path / "run").update(**forgotten)
    assert there(sent()) == once
    assert not (tmp_path / "mlflow.db").exists()  # nothing went to the address that MLflow would use by itself
    assert not (tmp_path / "mlruns").exists()


def refuse(*given: Any, **named: Any) -> Any:
    raise MlflowException("this store has none")


@pytest.mark.parametrize(
    ("method", "lacks"), [("create_prompt", "its prompts"), ("create_dataset", "its evaluation dataset")]
)
def test_what_mlflow_cannot_keep_is_one_warning_and_stops_nothing(
    sent: Callable[..., SyncState],
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    lacks: str,
) -> None:
    monkeypatch.setattr(MlflowClient, method, refuse)
    panel = {**PANEL, "sha256": method[::-1].encode().hex().ljust(64, "0")}
    state = sent(panel=panel)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lacks in warning
    assert "this store has none" in warning
    run = client.get_run(state.read()["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["panel/success"] == 1.0
    assert [given.dataset.digest for given in run.inputs.dataset_inputs] == [panel["sha256"][:36]]
    assert len(client.search_traces(locations=[run.info.experiment_id])) == 2
    monkeypatch.undo()
    sent(panel=panel)  # which by now it can
    assert state.read()["prompt_versions"]
    assert state.read()["dataset"]


def test_prompts_wait_for_a_server_that_is_gone(
    sent: Callable[..., SyncState], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*given: Any) -> Any:
        raise MlflowException("no answer") from ConnectionRefusedError()

    monkeypatch.setattr(MlflowClient, "create_prompt", gone)
    with pytest.raises(MlflowException, match="no answer"):
        sent()
    assert not caplog.records

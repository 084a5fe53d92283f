"""Whose weights a run started from, and the policy that came out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run

from pilotrl import sync
from pilotrl.tracking.mlflow_sync import MlflowSync
from pilotrl.tracking.run_description import description
from pilotrl.tracking.sync_state import RunInfo, SyncState

CARD = RunInfo("pilotrl", "run", {}, {"starts_from": "pilotrl:nano", "folder": "here"}, model_mb=1)
Finished = Callable[[Path], SyncState]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


def send(sync_state: SyncState, uri: str, run_info: RunInfo = CARD) -> SyncState:
    sync_state.begin(uri, run_info)
    sync_state.end("FINISHED", 1.9e9)
    MlflowSync(sync_state, uri).send()
    return sync_state


def run_of(client: MlflowClient, sync_state: SyncState) -> Run:
    return client.get_run(sync_state.read()["run_id"])


def models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    made = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    return [*made]


def test_the_policy_is_a_model_of_its_run(finished: Finished, tmp_path: Path, uri: str, client: MlflowClient) -> None:
    run = run_of(client, send(finished(tmp_path / "run"), uri))
    (model,) = models(client, run)
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(model.model_id, 1)]
    assert (model.status.value, model.tags["folder"]) == ("READY", str(tmp_path / "run" / "policy"))
    assert {metric.key: metric.value for metric in model.metrics}["panel/success"] == 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", tracking_uri=uri))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "run" / "policy").iterdir()
    }


def test_big_weights_stay_where_they_are(finished: Finished, tmp_path: Path, uri: str, client: MlflowClient) -> None:
    run = run_of(client, send(finished(tmp_path / "run"), uri, replace(CARD, model_mb=0.0009)))
    (model,) = models(client, run)
    assert [file.path for file in client.list_logged_model_artifacts(model.model_id)] == ["config.json"]
    assert (Path(model.tags["folder"]) / "model.safetensors").exists()


def test_a_crash_in_the_middle_makes_no_second_model(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_state = finished(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(MlflowClient, "finalize_logged_model", lambda *given: (_ for _ in ()).throw(RuntimeError))
        send(sync_state, uri)
    run = run_of(client, send(sync_state, uri))
    (model,) = models(client, run)
    assert model.status.value == "READY"
    assert len(run.outputs.model_outputs) == 1
    assert len(client.get_metric_history(run.info.run_id, "panel/success")) == 2


def test_a_chain_says_whose_weights_each_run_started_from(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    first = send(finished(tmp_path / "first"), uri)
    child = replace(CARD, parent=str(tmp_path / "first"), tags={"starts_from": str(tmp_path / "first")})
    second = send(finished(tmp_path / "second"), uri, child)
    again = send(second, uri, child)
    run, parent = run_of(client, again), run_of(client, first)
    assert run.data.tags["starts_from"] == str(tmp_path / "first")
    assert run.data.tags["starts_from_run"] == parent.info.run_id
    assert [model.model_id for model in run.inputs.model_inputs] == [models(client, parent)[0].model_id]
    assert parent.inputs.model_inputs == []


@pytest.mark.parametrize("where", ["elsewhere", "never"])
def test_a_parent_that_was_not_tracked_here_is_a_path(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient, where: str
) -> None:
    parent = finished(tmp_path / "first")
    if where == "elsewhere":
        parent.begin("http://elsewhere", CARD)
        parent.update(run_id="7" * 32, model_id="m-1")
    child = replace(CARD, parent=str(parent.folder), tags={"starts_from": str(parent.folder)})
    run = run_of(client, send(finished(tmp_path / "second"), uri, child))
    assert run.data.tags["starts_from"] == str(parent.folder)
    assert "starts_from_run" not in run.data.tags


def test_the_description_says_what_was_gained_unless_somebody_wrote_another(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    sync_state = finished(tmp_path / "run")
    summary = sync_state.folder / "summary.json"
    kept = summary.read_text()
    summary.unlink()
    run = run_of(client, send(sync_state, uri))
    note = "mlflow.note.content"
    assert run.data.tags[note] == description(CARD.tags, {})
    assert "`pilotrl:nano`" in run.data.tags[note]
    summary.write_text(kept)
    said = run_of(client, send(sync_state, uri)).data.tags[note]
    assert "| success | 100.0 % | 100.0 % | +0.0 % | - |" in said
    assert "| success, greedy | 100.0 %" in said
    client.set_tag(run.info.run_id, note, "mine")
    sync_state.update(result=None)
    assert run_of(client, send(sync_state, uri)).data.tags[note] == "mine"


def test_a_job_stands_below_its_sweep_even_if_that_arrives_later(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    sweep = SyncState(tmp_path)
    sweep.begin(uri, replace(CARD, tags={"folder": str(tmp_path), "jobs": "1"}))
    job = send(finished(tmp_path / "0"), uri)
    assert "mlflow.parentRunId" not in run_of(client, job).data.tags
    assert sync.main([str(tmp_path), "--uri", uri]) == 0
    assert run_of(client, job).data.tags["mlflow.parentRunId"] == run_of(client, sweep).info.run_id

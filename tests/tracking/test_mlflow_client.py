"""A real tracking server, and what happens to runs while it is gone. Nothing is mocked: it is killed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pilotrl.sync import sync
from pilotrl.tracking import tracker as tracking
from pilotrl.tracking.mlflow_sync import MlflowSync
from pilotrl.tracking.sync_state import EPISODES, METRICS, START, RunInfo, SyncState
from pilotrl.tracking.tracker import Tracker

CARD = RunInfo("pilotrl", "run", {}, {})
Point = tuple[int, str, float]


def write(folder: Path, first: int, last: int) -> None:
    with (folder / METRICS).open("a") as file:
        for step in range(first, last + 1):
            file.write(json.dumps({"step": step, "time": 1.7e9 + step, "train/loss": step / 3}) + "\n")


def sent(folder: Path, uri: str) -> list[Point]:
    client, run = MlflowClient(uri), SyncState(folder).read()["run_id"]
    return sorted((metric.step, metric.key, metric.value) for metric in client.get_metric_history(run, "train/loss"))


def written(folder: Path) -> list[Point]:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return sorted((line["step"], "train/loss", line["train/loss"]) for line in lines)


def begin(tmp_path: Path, name: str, uri: str) -> tuple[Path, Tracker]:
    folder = tmp_path / name
    folder.mkdir()
    write(folder, 1, 50)
    return folder, Tracker(folder, uri, RunInfo("pilotrl", name, {"seed": name}, {}))


def has(folder: Path, lines: int) -> Callable[[], bool]:
    return lambda: (
        len((folder / METRICS).read_bytes()[: SyncState(folder).read()[METRICS]["bytes"]].splitlines()) >= lines
    )


def test_a_server_killed_in_the_middle(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "PAUSE", 0.5)
    patient, early = (begin(tmp_path, name, server.uri) for name in ("patient", "early"))
    for folder, _ in (patient, early):
        server.wait_for(has(folder, 50))
    server.kill()
    for folder, _ in (patient, early):
        write(folder, 51, 100)
    server.wait_for(lambda: len(caplog.records) == 2)  # each run says once that MLflow is gone
    assert not early[1].finish("FINISHED")  # this one ends while it is
    server.start()
    server.wait_for(has(patient[0], 100))  # that one finds it again by itself
    write(patient[0], 101, 150)
    assert patient[1].finish("FINISHED")
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 3
    assert sync(early[0], server.uri) > 0
    for folder, _ in (patient, early):
        assert sent(folder, server.uri) == written(folder)
        run = MlflowClient(server.uri).get_run(SyncState(folder).read()["run_id"])
        assert (run.info.status, run.data.params) == ("FINISHED", {"seed": folder.name})
        assert sync(folder, server.uri) == 0


def test_a_server_that_comes_back_empty_gets_everything_again(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "POLL", 1000.0)  # nobody looks while it is gone
    folder, tracker = begin(tmp_path, "run", server.uri)
    tracker._try()
    server.kill()
    (tmp_path / "server.db").unlink()
    server.start()
    write(folder, 51, 60)
    assert tracker.finish("FINISHED")
    assert sent(folder, server.uri) == written(folder)


def test_traces_and_the_policy_go_through_a_server_too(
    server: Any, tmp_path: Path, finished: Callable[[Path], SyncState]
) -> None:
    sync_state = finished(tmp_path / "run")
    panel = {"env": "toy", "split": "test", "tasks": ["red"], "samples": 1, "sha256": "0" * 64}
    (tmp_path / "run" / "panel.json").write_text(json.dumps(panel))
    info = replace(CARD, traces=1, model_mb=1, prompt_set="short", prompts={"act": "Act.", "plan": "Plan {next}."})
    sync_state.begin(server.uri, info)
    sync_state.end("FINISHED", 1.9e9)

    def there() -> tuple[Any, ...]:
        client, sent = MlflowClient(server.uri), sync_state.read()
        run = client.get_run(sent["run_id"])
        traces = client.search_traces(locations=[run.info.experiment_id], run_id=sent["run_id"])
        (model,) = client.search_logged_models([run.info.experiment_id])
        files = [file.path for file in client.list_logged_model_artifacts(model.model_id)]
        (dataset,) = client.search_datasets([run.info.experiment_id])
        (given,) = run.inputs.dataset_inputs
        shared = dataset.name, dataset.profile, given.dataset.to_dictionary(), sent["prompt_versions"]
        return run.to_dictionary(), [trace.to_dict() for trace in traces], model.model_id, files, shared

    MlflowSync(sync_state, server.uri).send()
    once = there()
    assert [len(trace["data"]["spans"]) for trace in once[1]] == [6, 6]
    assert once[3] == ["config.json", "model.safetensors"]
    assert [version["version"] for version in once[4][3]] == ["1", "1"]
    assert json.loads(once[4][1]) == {"num_records": 1}
    sync_state.update(**{METRICS: START, EPISODES: START, **dict.fromkeys(("result", "model_id", "dataset"))})
    sync_state.update(artifacts={}, prompt_versions=None)
    MlflowSync(sync_state, server.uri).send()
    assert there() == once

"""A sweep in MLflow: names that tell its jobs apart, and a page of its own that says what became of them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from pilotrl import sync
from pilotrl.cli.sweep import Sweep
from pilotrl.store.run_folder import RunFolder
from pilotrl.tracking import sweeps
from pilotrl.tracking.mlflow_sync import MlflowSync
from pilotrl.tracking.sync_state import RunInfo, SyncState

NOTE = "mlflow.note.content"
Finished = Callable[[Path], SyncState]


def begun(folder: Path, *jobs: str, uri: str = "sqlite:///nowhere.db") -> SyncState:
    """A sweep of these jobs, each a command line, in folders 0, 1, ..., as it stands before the first of them starts."""
    folder.mkdir()
    numbered = {RunFolder(folder / str(number)): job.split() for number, job in enumerate(jobs)}
    state = SyncState(folder)
    state.begin(uri, Sweep(RunFolder(folder), uri, "sweeps", numbered).run_info())
    return state


def names(folder: Path, count: int, **held: Any) -> list[str]:
    given: dict[str, Any] = {"stage": "coordination", "env": "webshop", "seed": 0} | held
    return [sweeps.run_name(folder / str(number), **given) for number in range(count)]


def test_a_name_holds_what_was_swept_and_it_lacks(tmp_path: Path) -> None:
    jobs = [
        f"stage=coordination algorithm={name} +train.lr={lr} seed=1 env=webshop"
        for name, lr in [("ppo", 1e-3), ("grpo", 3e-4)]
    ]
    begun(tmp_path / "sweep", *jobs)
    assert names(tmp_path / "sweep", 2, seed=1) == [
        "coordination-webshop-ppo-lr=0.001-1",
        "coordination-webshop-grpo-lr=0.0003-1",
    ]


def test_what_the_name_holds_anyway_is_not_said_twice(tmp_path: Path) -> None:
    begun(tmp_path / "sweep", "stage=coordination env=webshop seed=0", "stage=adherence env=toy seed=1")
    assert sweeps.run_name(tmp_path / "sweep" / "1", stage="adherence", env="toy", seed=1) == "adherence-toy-1"
    assert sweeps.run_name(tmp_path / "alone", stage="adherence", env="toy", seed=1) == "adherence-toy-1"


@pytest.mark.parametrize(
    "jobs",
    [
        ["seed=0", "seed=0"],
        ["parent=/one/run", "parent=/other/run"],
        [f"model.path={'x' * 40}{last}" for last in "ab"],
        ["a.b=x-y a.c=z", "a.b=x a.c=y-z", "a.b=x a.c=y_z"],
        ["env=webshop", "env=my_webshop"],  # whose class has the same name
        ["train.lr=1e-3", "train.lr=0.001", "train.lr='1e-3'"],
        ["stage.terms=[outcome]", "stage.terms=[outcome,format]", "stage.terms=[outcome_format]"],
    ],
)
def test_no_two_jobs_share_a_name(tmp_path: Path, jobs: list[str]) -> None:
    begun(tmp_path / "sweep", *jobs)
    told = names(tmp_path / "sweep", len(jobs))
    assert len(set(told)) == len(jobs)
    assert told == names(tmp_path / "sweep", len(jobs))
    assert all("/" not in name and len(name) < 100 for name in told)


def test_stages_of_a_chain_in_a_sweep_hold_what_was_swept(tmp_path: Path) -> None:
    begun(tmp_path / "sweep", "algorithm=ppo", "algorithm=grpo")
    SyncState(_made(tmp_path / "sweep" / "1")).begin("off", RunInfo("x", "the chain", {}, {}))
    stage = tmp_path / "sweep" / "1" / "2-planning"
    assert sweeps.run_name(stage, stage="planning", env="toy", seed=3) == "planning-toy-grpo-3"


def test_jobs_that_a_sweeper_thinks_of_while_it_runs_have_their_number(tmp_path: Path) -> None:
    begun(tmp_path / "sweep", "seed=0")
    assert names(tmp_path / "sweep", 3) == [
        "coordination-webshop-0",
        "coordination-webshop-job1-0",
        "coordination-webshop-job2-0",
    ]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


# The page of the sweep's own run.


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


def over(finished: Finished, folder: Path, uri: str, success: float) -> None:
    """A job that is over: it solved no task before training, and `success` of them after."""
    state = finished(folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["eval"]["before"]["success"], summary["eval"]["after"]["success"] = 0.0, success
    summary["eval"]["paired"]["success"] = {"mean": success, "low": success / 2, "high": 1.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    state.begin(uri, RunInfo("sweeps", folder.name, {}, {}))
    state.end("FINISHED", 1.9e9)


def page(client: MlflowClient, state: SyncState) -> tuple[Mapping[str, Any], dict[str, list[tuple[int, float]]], Any]:
    """The tags, the points of each metric and the table of a sweep's run."""
    run = client.get_run(state.read()["run_id"])
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    told = {name: sorted((point.step, point.value) for point in points) for name, points in histories.items()}
    table = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/jobs.json")
    return run.data.tags, told, table


def test_each_job_is_a_point_and_a_line_once_it_is_over(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    state = begun(tmp_path / "sweep", "algorithm=grpo seed=0", "algorithm=ppo seed=0", uri=uri)
    feed = MlflowSync(state, uri)
    feed.send()
    tags, told, table = page(client, state)
    assert told == {}
    assert "| 1 | ppo | WAITING | - | - | - | - |" in tags[NOTE]
    over(finished, tmp_path / "sweep" / "1", uri, 0.5)
    feed.send()
    over(finished, tmp_path / "sweep" / "0", uri, 0.25)
    feed.send()
    tags, told, table = page(client, state)
    assert told["eval/success_after"] == [(0, 0.25), (1, 0.5)]
    assert told["eval/success_gain"] == [(0, 0.25), (1, 0.5)]
    assert "| 1 | ppo | FINISHED | 0.0 % | 50.0 % | +50.0 % | +25.0 % to +100.0 % |" in tags[NOTE]
    assert dict(zip(table["columns"], table["data"][0], strict=True)) == {
        "job": 0,
        "algorithm": "grpo",
        "status": "FINISHED",
        "success_before": 0.0,
        "success_after": 0.25,
        "success_gain": 0.25,
        "gain_low": 0.125,
        "gain_high": 1.0,
    }
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "jobs.json", "type": "table"}]


@pytest.mark.parametrize("forgets", [False, True])
def test_sent_twice_it_is_the_same(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient, forgets: bool
) -> None:
    state = begun(tmp_path / "sweep", "seed=0", "seed=1", uri=uri)
    for number in (0, 1):
        over(finished, tmp_path / "sweep" / str(number), uri, 0.5)
    state.end("FINISHED", 1.9e9)
    assert sync.main([str(tmp_path / "sweep"), "--uri", uri]) == 0
    once = page(client, state)
    if forgets:
        state.update(jobs_sent=None)
    assert sync.main([str(tmp_path / "sweep"), "--uri", uri]) == 0
    assert page(client, state) == once


def test_a_sweep_whose_server_was_down_is_told_by_sync(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    state = begun(tmp_path / "sweep", "seed=0", "seed=1", uri=nobody)
    over(finished, tmp_path / "sweep" / "1", nobody, 0.5)
    assert sync.main([str(tmp_path / "sweep")]) == 2
    assert sync.main([str(tmp_path / "sweep"), "--uri", uri]) == 0
    tags, told, _ = page(client, state)
    assert told["eval/success_after"] == [(1, 0.5)]
    assert "| 0 | 0 | WAITING |" in tags[NOTE]


def test_a_description_that_somebody_wrote_stays(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    state = begun(tmp_path / "sweep", "seed=0", "seed=1", uri=uri)
    MlflowSync(state, uri).send()
    client.set_tag(state.read()["run_id"], NOTE, "mine")
    over(finished, tmp_path / "sweep" / "1", uri, 0.5)
    MlflowSync(state, uri).send()
    tags, told, _ = page(client, state)
    assert (tags[NOTE], told["eval/success_after"]) == ("mine", [(1, 0.5)])


def test_a_crash_between_noting_a_description_and_sending_it_stops_nothing(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = begun(tmp_path / "sweep", "seed=0", "seed=1", uri=uri)
    MlflowSync(state, uri).send()
    for number in (0, 1):
        over(finished, tmp_path / "sweep" / str(number), uri, 0.5)
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(MlflowClient, "set_tag", lambda *given: (_ for _ in ()).throw(RuntimeError))
            MlflowSync(state, uri).send()
    MlflowSync(state, uri).send()
    assert page(client, state)[0][NOTE].count("FINISHED") == 2


def test_a_long_sweep_fits_into_a_description(tmp_path: Path) -> None:
    jobs = {str(number): {"train.lr": "0.001", "seed": str(number)} for number in range(500)}
    text = sweeps.description("here", sweeps.jobs_of(tmp_path, jobs))
    assert len(text) < 8000
    shown = text.count("WAITING")
    assert f"... and {500 - shown} more" in text
    assert 100 < shown < 500
    assert len(sweeps.table(sweeps.jobs_of(tmp_path, jobs))["data"]) == 500


def test_a_run_that_is_no_sweep_has_none_of_it(
    finished: Finished, tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    state = finished(tmp_path / "run")
    state.begin(uri, replace(RunInfo("sweeps", "run", {}, {})))
    MlflowSync(state, uri).send()
    run = client.get_run(state.read()["run_id"])
    assert not [name for name in run.data.metrics if name.startswith("eval/")]
    assert "mlflow.loggedArtifacts" not in run.data.tags

"""MLflow ends up with what metrics.jsonl says, whatever happened on the way. Against a real sqlite file, no mocks."""

from __future__ import annotations

import json
import logging
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pilotrl import sync as command
from pilotrl.store.run_folder import RunFolder
from pilotrl.tracking.mlflow_sync import MlflowSync
from pilotrl.tracking.run_description import description as run_description
from pilotrl.tracking.sync_state import METRICS, START, RunInfo, SyncState
from pilotrl.tracking.tracker import Tracker
from pilotrl.types import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")  # MLflow's own use of sqlalchemy

Line = dict[str, float | None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests: creating it takes seconds. The blank in its name must not matter."""
    return tmp_path_factory.mktemp("multi run")


@pytest.fixture(scope="module")
def uri(root: Path) -> str:
    return f"sqlite:///{root}/mlflow.db"


@pytest.fixture
def folder(root: Path, request: pytest.FixtureRequest) -> Path:
    path = root / str(request.node.name)
    path.mkdir()
    return path


@pytest.fixture
def tracker(folder: Path, uri: str) -> Iterator[Callable[..., Tracker]]:
    """Makes trackers of the folder, and ends those that a test leaves alive."""
    made: list[Tracker] = []

    def make(to: str = uri, **params: Any) -> Tracker:
        made.append(Tracker(folder, to, _card(folder.name, **params)))
        return made[-1]

    yield make
    for one in made:
        one.finish("FAILED")


def _card(name: str, **params: Any) -> RunInfo:
    return RunInfo("pilotrl", name, params, {"stage": "adherence", "folder": name, "starts_from": "pilotrl:nano"})


def _lines(first: int, last: int, now: float = 1.7e9) -> list[Line]:
    return [
        {"step": step, "time": now + step, "reward/total": step / 7, "seconds/rollout": now / 1e9}
        for step in range(first, last + 1)
    ]


def _write(folder: Path, lines: list[Line], mode: str = "a") -> None:
    with (folder / "metrics.jsonl").open(mode) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _run_id(folder: Path) -> str:
    return str(SyncState(folder).read()["run_id"])


def _sent(folder: Path, uri: str) -> list[tuple[int, str, float]]:
    """(step, name, value) of everything MLflow has of a run."""
    client, run = _client(uri), _run_id(folder)
    names = client.get_run(run).data.metrics
    return sorted(
        (metric.step, name, metric.value) for name in names for metric in client.get_metric_history(run, name)
    )


def _written(folder: Path) -> list[tuple[int, str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sorted((line["step"], name, line[name]) for line in lines for name in line if name not in ("step", "time"))


def _eventually(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_everything_arrives_at_its_step(
    folder: Path, root: Path, uri: str, tracker: Callable[..., Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tracker(train={"lr": 3e-4, "weights": {}}, model={"max_plan_tokens": 64}, judge={"api_key": "sk-1"})
    _write(folder, _lines(1, 3))
    (folder / "panel.json").write_text('{"name": "test"}')
    _eventually(lambda: SyncState(folder).read()[METRICS]["bytes"] > 0)  # while it runs, and not only at the end
    assert _client(uri).get_run(_run_id(folder)).info.status == "RUNNING"
    _write(folder, _lines(4, 2000))  # more than one request may hold
    (folder / "summary.json").write_text("{}")
    assert run.finish("FINISHED")

    assert _sent(folder, uri) == _written(folder)
    there = _client(uri).get_run(_run_id(folder))
    assert there.info.status == "FINISHED"
    assert there.data.params == {
        "train.lr": "0.0003",
        "train.weights": "{}",
        "model.max_plan_tokens": "64",
        "judge": "{}",
    }
    assert there.data.tags["stage"] == "adherence"
    files = root / "mlartifacts" / _run_id(folder) / "artifacts"
    assert {path.name for path in files.iterdir()} == {"config.yaml", "panel.json", "summary.json"}
    assert "lr: 0.0003" in (files / "config.yaml").read_text()
    assert "sk-1" not in (files / "config.yaml").read_text() + (folder / "mlflow.json").read_text()
    assert not list(tmp_path.iterdir())  # no mlruns in the working folder


def test_a_resumed_run_continues_the_same_one(folder: Path, uri: str, tracker: Callable[..., Tracker]) -> None:
    _write(folder, _lines(1, 2))
    with pytest.raises(RuntimeError), tracker(seed=1):
        raise RuntimeError
    first = _run_id(folder)
    assert _client(uri).get_run(first).info.status == "FAILED"
    _write(folder, _lines(3, 4))
    with tracker(seed=2):  # MLflow refuses to change a parameter: the run keeps its first
        pass
    run = _client(uri).get_run(_run_id(folder))
    assert (run.info.run_id, run.info.status, run.data.params) == (first, "FINISHED", {"seed": "1"})
    assert _sent(folder, uri) == _written(folder)


def test_a_run_that_a_signal_ends_is_called_killed(folder: Path, uri: str, tracker: Callable[..., Tracker]) -> None:
    _write(folder, _lines(1, 2))
    with pytest.raises(KeyboardInterrupt), tracker():
        raise KeyboardInterrupt
    assert SyncState(folder).read()["status"] == "KILLED"
    assert command.main([str(folder)]) == 0  # a slow machine needs longer than a killed run waits
    assert _client(uri).get_run(_run_id(folder)).info.status == "KILLED"


def test_killed_run_is_completed_by_sync(folder: Path, uri: str) -> None:
    script = """
import json, sys, time
from pathlib import Path
from pilotrl.tracking.sync_state import RunInfo
from pilotrl.tracking.tracker import Tracker
folder = Path(sys.argv[1])
Tracker(folder, sys.argv[2], RunInfo("pilotrl", "killed", {}, {}))
with (folder / "metrics.jsonl").open("a") as file:
    for step in range(1, 10_000):
        file.write(json.dumps({"step": step, "time": time.time(), "train/loss": step * 0.1}) + "\\n")
        file.flush()
        time.sleep(0.005)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(folder), uri])
    _eventually(lambda: (folder / "mlflow.json").exists() and SyncState(folder).read()[METRICS]["bytes"] > 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text[: text.rfind("\n") + 1])  # as resume does with a half line
    assert len(_sent(folder, uri)) < len(_written(folder))
    assert command.main([str(folder)]) == 0
    assert _sent(folder, uri) == _written(folder)


def test_sync_twice_changes_nothing(folder: Path, uri: str, tracker: Callable[..., Tracker]) -> None:
    _write(folder, _lines(1, 5))
    tracker().finish("FINISHED")
    ended = _client(uri).get_run(_run_id(folder)).info.end_time
    assert command.sync(folder) == 0
    assert _sent(folder, uri) == _written(folder)
    assert _client(uri).get_run(_run_id(folder)).info.end_time == ended


def test_a_crash_between_sending_and_noting_it_counts_nothing_twice(
    folder: Path, uri: str, tracker: Callable[..., Tracker]
) -> None:
    _write(folder, _lines(1, 5))
    tracker().finish("FINISHED")
    SyncState(folder).update(**{METRICS: START})
    command.sync(folder)
    assert _sent(folder, uri) == _written(folder)


@pytest.mark.parametrize("alive", [True, False], ids=["under a living tracker", "before sync"])
def test_after_a_cut_back_the_steps_played_again_count(
    folder: Path, uri: str, tracker: Callable[..., Tracker], alive: bool
) -> None:
    _write(folder, _lines(1, 10))
    tracker().finish("FAILED")
    feed = MlflowSync(SyncState(folder), uri)
    feed.send()
    send = feed.send if alive else lambda: command.sync(folder)
    kept = _lines(1, 5)
    for lines in (kept, kept + _lines(6, 8, now=1.8e9), kept + _lines(6, 20, now=1.9e9)):  # shorter, and longer
        _write(folder, lines, "w")
        send()
    shown = {(step, name): value for step, name, value in _sent(folder, uri)}  # of one step the later, which is larger
    assert sorted((step, name, value) for (step, name), value in shown.items()) == _written(folder)
    assert _client(uri).get_run(_run_id(folder)).data.metrics["seconds/rollout"] == 1.9


def test_a_half_written_line_waits_for_its_end(folder: Path, uri: str, tracker: Callable[..., Tracker]) -> None:
    tracker().finish("FAILED")
    whole = json.dumps({"step": 1, "train/loss": 0.5}) + "\n"
    (folder / "metrics.jsonl").write_text(whole[:12])
    assert command.sync(folder) == 0
    (folder / "metrics.jsonl").write_text(whole)
    assert command.sync(folder) == len(whole)
    assert _sent(folder, uri) == [(1, "train/loss", 0.5)]


def test_what_is_not_a_number_is_not_sent(folder: Path, uri: str, tracker: Callable[..., Tracker]) -> None:
    _write(folder, [{"step": 1, "train/kl": None, "train/loss": float("nan"), "train/lr": 1}])
    assert tracker().finish("FINISHED")
    assert [(step, name) for step, name, _ in _sent(folder, uri)] == [(1, "train/loss"), (1, "train/lr")]


def test_a_run_deleted_in_mlflow_is_made_anew(folder: Path, uri: str, tracker: Callable[..., Tracker]) -> None:
    _write(folder, _lines(1, 3))
    tracker().finish("FINISHED")
    old = _run_id(folder)
    _client(uri).delete_run(old)
    command.sync(folder)
    assert _run_id(folder) != old
    assert _sent(folder, uri) == _written(folder)


@pytest.fixture(params=["refuses", "is silent"])
def dead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that refuses connections, or takes them and never answers."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_dead_server_is_one_warning_and_never_in_the_way(
    folder: Path, uri: str, dead: str, tracker: Callable[..., Tracker], caplog: pytest.LogCaptureFixture
) -> None:
    run = tracker(dead)  # returns, though nobody answers
    _write(folder, _lines(1, 3))
    _eventually(lambda: bool(caplog.records))
    assert not run.finish("FINISHED")
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING]
    assert f"MLflow at {dead} failed" in caplog.messages[0]
    assert f"python -m pilotrl.sync {shlex.quote(str(folder))} --uri {dead}" in caplog.messages[1]
    command.sync(folder, uri)
    assert _sent(folder, uri) == _written(folder)
    assert _client(uri).get_run(_run_id(folder)).info.status == "FINISHED"


def test_eight_jobs_at_once_on_one_fresh_file(tmp_path: Path) -> None:
    uri, folders = f"sqlite:///{tmp_path}/new.db", [tmp_path / str(number) for number in range(8)]
    script = f"""
import json, sys
from pathlib import Path
from pilotrl.tracking.sync_state import RunInfo
from pilotrl.tracking.tracker import Tracker
folder = Path(sys.argv[1])
folder.mkdir()
with Tracker(folder, {uri!r}, RunInfo("eight", folder.name, {{"seed": folder.name}}, {{}})):
    for step in range(1, 200):
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({{"step": step, "time": 1.7e9 + step, "reward/total": step / (1 + int(folder.name))}}) + "\\n")
"""
    jobs = [subprocess.Popen([sys.executable, "-c", script, str(folder)]) for folder in folders]
    assert [job.wait() for job in jobs] == [0] * 8
    for folder in folders:
        assert _sent(folder, uri) == _written(folder)
        assert _client(uri).get_run(_run_id(folder)).info.status == "FINISHED"
    experiment = _client(uri).get_experiment_by_name("eight")
    assert experiment is not None
    assert len(_client(uri).search_runs([experiment.experiment_id])) == 8


def test_a_crash_between_making_a_run_and_noting_it_makes_no_second_one(
    folder: Path, uri: str, tracker: Callable[..., Tracker]
) -> None:
    _write(folder, _lines(1, 3))
    tracker().finish("FINISHED")
    made = _run_id(folder)
    SyncState(folder).update(run_id=None)
    command.sync(folder)
    assert _run_id(folder) == made
    assert _sent(folder, uri) == _written(folder)


def test_a_run_killed_is_called_so_by_sync_and_one_alive_is_left_alone(
    folder: Path, uri: str, tracker: Callable[..., Tracker]
) -> None:
    _write(folder, _lines(1, 3))
    tracker().finish("FAILED")
    SyncState(folder).update(status="RUNNING")
    with RunFolder(folder).lock(), pytest.raises(UserError, match="is being written by process"):
        command.sync(folder)
    command.sync(folder)
    info = _client(uri).get_run(_run_id(folder)).info
    assert (info.status, info.end_time) == ("KILLED", 1000 * (1_700_000_000 + 3))


def test_one_folder_that_cannot_be_sent_does_not_keep_the_others(
    folder: Path, tmp_path: Path, uri: str, tracker: Callable[..., Tracker], capsys: pytest.CaptureFixture[str]
) -> None:
    tracker().finish("FINISHED")
    _write(folder, _lines(1, 3))
    assert command.main([str(tmp_path), str(folder)]) == 2
    assert "mlflow.json" in capsys.readouterr().err
    assert _sent(folder, uri) == _written(folder)


def test_another_server_gets_all_of_it_and_is_the_folders_from_then_on(
    folder: Path, uri: str, tracker: Callable[..., Tracker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run and one inside it, as a sweep and its job are."""
    (folder / "0").mkdir()
    for place in (folder, folder / "0"):
        _write(place, _lines(1, 3))
    tracker().finish("FINISHED")
    Tracker(folder / "0", uri, _card("job")).finish("FINISHED")
    other = f"sqlite:///{tmp_path}/other.db"
    assert command.main([str(folder), "--uri", other]) == 0
    size = (folder / "metrics.jsonl").stat().st_size
    assert capsys.readouterr().out.count(f"{size} bytes of metrics were new") == 2
    job = _client(other).get_run(_run_id(folder / "0"))
    assert job.data.tags["mlflow.parentRunId"] == _run_id(folder)
    assert command.main([str(folder), "--uri", other]) == 0
    assert capsys.readouterr().out.count(": 0 bytes of metrics were new") == 2


@pytest.mark.parametrize("nothing", [None, "off"])
def test_off_is_off(nothing: str | None, tmp_path: Path) -> None:
    with Tracker(tmp_path, nothing, _card("name")) as tracker:
        assert tracker.finish("FINISHED")
    assert not list(tmp_path.iterdir())


def test_importing_it_is_cheap() -> None:
    code = "import sys, pilotrl.tracking; print({'mlflow', 'torch', 'sqlalchemy'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_sync_of_what_cannot_be_sent_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path)]) == 2
    SyncState(tmp_path).begin("http://me:pw@host", _card("x"))
    assert command.main([str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "mlflow.json" in lines[0]
    assert "--uri" in lines[1]
    assert "pw" not in lines[1]


def test_credentials_are_not_in_a_complaint(tmp_path: Path) -> None:
    feed = MlflowSync(SyncState(tmp_path), "http://me:pw@host")
    assert "pw" not in feed.complaint(OSError("no route to http://me:pw@host/api or http://you:pw@other"))


def test_names_in_the_description_of_a_run_are_text() -> None:
    evil = "<b>`|[a](http://b)\n# big"
    block = {"before": {"success": 0.5}, "after": {"success": 0.5}}
    block["paired"] = {"success": {"mean": None, "low": None, "high": None}}  # type: ignore[dict-item]
    told = run_description({"starts_from": evil, "folder": evil}, {"eval": block, "panel": {"name": evil}})
    assert "# big" not in told.splitlines()
    outside = re.sub("`[^`]*`", "", told.replace("\\`", ""))
    assert "<" not in outside
    (head,) = [line for line in told.splitlines() if line.startswith("| own plans")]
    assert len(re.findall(r"(?<!\\)\|", head)) == 6

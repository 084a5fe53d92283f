"""A sweep: its jobs have nothing to do with each other, its end says what is left to do, and MLflow gets all of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from pilotrl import PACKAGE
from pilotrl.__main__ import main
from pilotrl.store.run_folder import RunFolder
from tests.conftest import RESULTS

LOW_HIGH = {"mean": 0.25, "low": 0.125, "high": 0.4}
STUB = ("-m", "env=toy", "model=scratch", "tracking.uri=off", "hydra.sweep.dir=sweep")


class Runs:
    """Stands for `pilotrl.runs.run`: finishes every run, but for the seed that is bad."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.bad: int | None = None

    def run(self, config: Any, folder: Path) -> None:
        self.seeds.append(config.seed)
        if config.seed == self.bad:
            raise ZeroDivisionError("nothing to divide by")
        RunFolder(folder).summary.write_text(json.dumps(SUMMARY))


SUMMARY = {
    "eval": {"before": {"success": 0.25}, "after": {"success": 0.5}, "paired": {"success": LOW_HIGH}},
    "eval_teacher": None,
    "seconds": 71.4,
    "train": {},
    "panel": {},
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    stub = Runs()
    monkeypatch.setitem(sys.modules, "pilotrl.runs.run", SimpleNamespace(run=stub.run))  # type: ignore[misc]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pilotrl"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return stub


def test_a_failed_job_stops_no_other_and_the_command_goes_on_with_it(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.bad = 1
    assert main([*STUB, "seed=0,1,2", "train.lr=1e-4"]) == 1
    assert runs.seeds == [0, 1, 2]
    out, err = capsys.readouterr()
    assert "pilotrl: sweep/1 (seed=1): ZeroDivisionError: nothing to divide by\n" in err
    assert _said(out, "job ") == [
        "job 1 of 3: seed=0",
        "job 1 is finished: success with own plans 25.0 % -> 50.0 % (+25.0; +12.5 to +40.0); 71 s",
        "job 2 of 3: seed=1",
        "job 2 is not finished: ZeroDivisionError: nothing to divide by",
        "job 3 of 3: seed=2",
        "job 3 is finished: success with own plans 25.0 % -> 50.0 % (+25.0; +12.5 to +40.0); 71 s",
        "job seed before after change interval folder",
    ]
    assert _said(out, "1 0 ", "2 1 ", "3 2 ") == [
        "1 0 25.0 50.0 +25.0 +12.5 to +40.0 * 0",
        "2 1 - - - not finished 1",
        "3 2 25.0 50.0 +25.0 +12.5 to +40.0 * 2",
    ]
    assert out.splitlines()[-1] == "python -m pilotrl.report sweep"
    assert "pilotrl: 1 of 3 jobs are not finished" in err
    assert "Traceback" in Path("sweep/1/pilotrl.log").read_text()
    runs.bad, runs.seeds = None, []
    line = goes_on(err)
    assert main(line) == 0
    assert "success in 3 of 3 jobs of sweep" in capsys.readouterr().out
    assert runs.seeds == [1]
    assert main(line) == 0
    assert runs.seeds == [1]


def _said(out: str, *begins: str) -> list[str]:
    """Lines that begin so, as words."""
    lines = (" ".join(line.split()) for line in out.splitlines())
    return [line for line in lines if line.startswith(begins)]


def test_success_under_the_plans_of_a_teacher_is_a_line_of_its_own(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SUMMARY, "eval_teacher", SUMMARY["eval"])
    assert main([*STUB, "seed=0,1", "reward.weights.format=1,2"]) == 0
    out = capsys.readouterr().out
    assert _said(out, "job s", "1 0") == [
        "job seed reward.weights.format plans before after change interval folder",
        "1 0 1 own 25.0 50.0 +25.0 +12.5 to +40.0 * 0",
    ]
    assert len(_said(out, "teacher's 25.0 50.0 +25.0")) == 4


def test_a_run_alone_is_no_job_of_a_sweep(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    runs.bad = 1
    assert main([*STUB, "seed=0,1"]) == 1
    capsys.readouterr()
    assert main([*STUB[1:4], "hydra.run.dir=alone"]) == 0
    assert "job" not in capsys.readouterr().out


def test_a_rank_that_fails_takes_the_others_with_it(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    runs.bad = 0
    with pytest.raises(SystemExit, match="1"):
        main([*STUB, "seed=0,1"])


def test_an_interrupted_sweep_says_what_is_left(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: Any, folder: Path) -> None:
        if config.seed == 1:
            raise KeyboardInterrupt
        RunFolder(folder).summary.write_text(RESULTS)

    monkeypatch.setattr(sys.modules["pilotrl.runs.run"], "run", run)
    assert main([*STUB, "seed=0,1,2"]) == 130
    out, err = capsys.readouterr()
    assert "success in 1 of 3 jobs of sweep" in out
    assert len(_said(out, "2 1 - - - not finished", "3 2 - - - not finished")) == 2
    assert "sweep/1 (seed=1): is not finished" in err
    assert "sweep/2 (seed=2): is not finished" in err
    assert "2 of 3 jobs are not finished" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("seed=0,1", "hydra.sweep.subdir=same"), "hydra.sweep.subdir=same: is the folder of two jobs; make it differ"),
        (("seed=0,-1",), "seed=-1: must be from 0"),
    ],
)
def test_a_sweep_with_one_bad_job_starts_none(
    words: tuple[str, ...], says: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*STUB, *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert (runs.seeds, list(tmp_path.iterdir())) == ([], [])


def test_a_launcher_needs_a_sweep(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*STUB[1:4], "hydra/launcher=local"]) == 2
    assert "hydra/launcher=local: starts the jobs of a sweep, even of a single one; add -m" in capsys.readouterr().err


def test_two_commands_do_not_work_on_one_sweep(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(tmp_path / "sweep").lock():
        assert main([*STUB, "seed=0,1"]) == 2
    assert f"sweep: is being written by process {os.getpid()}" in capsys.readouterr().err
    assert runs.seeds == []


SMALL = (
    "env=toy",
    "env._target_=deadly.Deadly",
    "trust=[deadly]",
    "model.max_length=192",
    "model.max_plan_tokens=12",
    "model.max_action_tokens=8",
    *(f"train.{key}" for key in ("steps=4", "tasks=2", "group_size=4", "minibatches=2", "micro_tokens=512")),
    *(f"panel.{key}" for key in ("tasks=2", "samples=1", "greedy=false")),
    *("checkpoint.every=1", "trainer.threads=1", "hydra.sweep.dir=sweep", "hydra/launcher=local"),
)
DEADLY = '''
"""ToyEnv, but job 1 is killed when it plays after its first checkpoint, once."""
import os, pathlib, signal
from pilotrl.envs.toy import ToyEnv

class Deadly(ToyEnv):
    def reset(self, **given):
        folder = pathlib.Path(os.environ.get("PILOTRL_RUN", "."))
        died = folder / "died"
        if folder.name == "1" and list(folder.glob("checkpoints/*.ckpt")) and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(**given)
'''


Sweeping = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pilotrl(tiny: Path, tmp_path: Path) -> Sweeping:
    """Runs a command of whole processes, one of which is killed."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    paths = os.pathsep.join([str(PACKAGE.parent), str(tmp_path)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pilotrl", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)

    return run


def goes_on(said: str) -> list[str]:
    """The words of the command that a sweep names at its end."""
    (line,) = re.findall(r"^  python -m pilotrl (.*)$", said, re.MULTILINE)
    return shlex.split(line)


def test_a_killed_job_ends_no_other_and_alone_is_started_again(pilotrl: Sweeping, tiny: Path, tmp_path: Path) -> None:
    first = pilotrl("-m", *SMALL, f"model.path={tiny}", "train.steps=2", "seed=0,1", "tracking.uri=off")
    assert (first.returncode, first.stderr.count("Traceback")) == (1, 0), first.stderr
    assert "pilotrl: sweep/1 (seed=1): was killed or cancelled; its last words are in" in first.stderr
    whole, killed = RunFolder(tmp_path / "sweep" / "0"), RunFolder(tmp_path / "sweep" / "1")
    assert (whole.finished, killed.finished) == (True, False)
    before = whole.summary.read_bytes()
    again = pilotrl(*goes_on(first.stderr))
    assert again.returncode == 0, again.stderr
    assert (whole.summary.read_bytes(), killed.finished) == (before, True)


@pytest.mark.slow
def test_eight_jobs_at_once_on_one_fresh_sqlite_file(pilotrl: Sweeping, tiny: Path, tmp_path: Path) -> None:
    first = pilotrl("-m", *SMALL, f"model.path={tiny}", "seed=range(8)")
    assert first.returncode == 1, first.stderr
    assert "pilotrl: sweep/1 (seed=1): was killed or cancelled; its last words are in" in first.stderr
    assert "1 of 8 jobs are not finished" in first.stderr
    assert "success in 7 of 8 jobs of sweep" in first.stdout  # said by the process that waits
    again = pilotrl(*goes_on(first.stderr))
    assert again.returncode == 0, again.stderr
    client = MlflowClient(f"sqlite:///{tmp_path}/multirun/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("pilotrl").experiment_id])  # type: ignore[union-attr]
    (parent,) = [run for run in runs if run.data.params["seed"] == ",".join(map(str, range(8)))]
    assert "A sweep of 8 jobs." in parent.data.tags["mlflow.note.content"]
    jobs = {run.data.params["seed"]: run for run in runs if run is not parent}
    assert sorted(jobs) == [str(seed) for seed in range(8)]
    for seed, run in jobs.items():
        assert (run.data.tags["mlflow.parentRunId"], run.info.status) == (parent.info.run_id, "FINISHED")
        lines = [json.loads(line) for line in RunFolder(tmp_path / "sweep" / seed).metrics.read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        for name in {name for line in lines for name in line} - {"step", "time"}:
            wanted = {line["step"]: line[name] for line in lines if line.get(name) is not None}
            history = client.get_metric_history(run.info.run_id, name)
            assert {point.step: point.value for point in sorted(history, key=lambda p: p.timestamp)} == wanted, name

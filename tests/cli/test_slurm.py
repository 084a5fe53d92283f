"""A sweep on a real SLURM: one node, started here on ports of its own and stopped again.

Where SLURM is not installed (Debian: slurm-wlm and munge) the tests that need it are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from pilotrl import PACKAGE
from pilotrl.__main__ import main
from pilotrl.cli import slurm
from pilotrl.config import trust
from pilotrl.store.run_folder import RUN, RunFolder

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
MISSING = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]

SETTINGS = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.sock,cred_expire=1
SlurmctldPort={control}
SlurmdPort={daemon}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
MpiDefault=none
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES PriorityTier=1
PartitionName=urgent Nodes={host} PriorityTier=2
"""

SLOWLY = '''
"""ToyEnv, but the first time that a job on the cluster plays after its first checkpoint it does not come back."""
import os, pathlib, time
from pilotrl.envs.toy import ToyEnv

class Slowly(ToyEnv):
    def reset(self, **given):
        folder = pathlib.Path(os.environ.get("PILOTRL_RUN", "."))
        waits = folder / "waits"
        chosen = "SLURM_JOB_ID" in os.environ and folder.name in "12"
        if chosen and list(folder.glob("checkpoints/*.ckpt")) and not waits.exists():
            waits.touch()
            time.sleep(600)
        return super().reset(**given)
'''

SMALL = (
    "env=toy",
    "env._target_=slowly.Slowly",
    "trust=[slowly]",
    "model.max_length=192",
    "model.max_plan_tokens=12",
    "model.max_action_tokens=8",
    *(f"train.{key}" for key in ("steps=3", "tasks=2", "group_size=4", "minibatches=2", "micro_tokens=512")),
    *(f"panel.{key}" for key in ("tasks=2", "samples=1", "greedy=false")),
    *("checkpoint.every=1", "trainer.threads=1", "tracking.traces=0"),
)
WITH = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=10")


@dataclass
class Cluster:
    """A SLURM of one node and four processors, only two of which need be real."""

    place: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.place / name).mkdir()
        key = self.place / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        ports = {name: self.port() for name in ("control", "daemon")}
        text = SETTINGS.format(host=socket.gethostname().split(".")[0], place=self.place, **ports)
        (self.place / "slurm.conf").write_text(text)
        os.environ["SLURM_CONF"] = str(self.place / "slurm.conf")
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{name}={self.place / file}" for name, file in files.items()]
        self.daemon("munged", "--foreground", "--force", f"--log-file={self.place}/munge.log", *options)
        self.until((self.place / "munge.sock").exists)
        self.daemon("slurmctld", "-D", "-c")
        self.daemon("slurmd", "-D")
        self.until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"))

    def port(self) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])

    def daemon(self, name: str, *options: str) -> None:
        with (self.place / f"{name}.out").open("wb") as out:
            command = [str(shutil.which(name, path=PATH)), *options]
            self.daemons.append(subprocess.Popen(command, stdout=out, stderr=out))

    def ask(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True).stdout

    def until(self, true: Callable[[], Any]) -> None:
        """However slow the machine is."""
        end = time.monotonic() + 300
        while not true():
            logs = "\n".join(path.read_text()[-1000:] for path in self.place.glob("*.out"))
            assert all(daemon.poll() is None for daemon in self.daemons), logs
            assert time.monotonic() < end, logs
            time.sleep(0.1)

    def stop(self) -> None:
        for command in self.commands:
            command.kill()
        self.ask("scancel", "--full", "--signal=KILL", f"--user={os.getuid()}")
        self.ask("scancel", f"--user={os.getuid()}")
        if len(self.daemons) == 3:
            self.until(lambda: not self.ask("squeue", "-h"))
        for daemon in reversed(self.daemons):
            daemon.terminate()
            daemon.wait()

    def pilotrl(self, place: Path, *words: str) -> subprocess.Popen[str]:
        whole = [sys.executable, "-m", "pilotrl", *words]
        started = subprocess.Popen(whole, cwd=place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.commands.append(started)
        return started

    def end(self, command: subprocess.Popen[str]) -> str:
        """What a command says. A requeued job need not wait for two minutes, as SLURM would have it, and gets time again."""
        while command.poll() is None:
            waiting = self.ask("squeue", "-h", "--array", "-o", "%i %r")
            for job in re.findall(r"^(\S+) BeginTime$", waiting, re.MULTILINE):
                self.ask("scontrol", "update", f"JobId={job}", "StartTime=now", "TimeLimit=10")
            time.sleep(1)
        return command.communicate()[1]

    def job(self, number: int) -> str:
        """Id of a job of the only array there is."""
        (found,) = re.findall(rf"^(\d+_{number})$", self.ask("squeue", "-h", "--array", "-o", "%i"), re.MULTILINE)
        return str(found)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """Skips without SLURM, and says so even where reasons of skips are not shown."""
    if MISSING or os.geteuid():
        reason = (
            f"NO SLURM: {', '.join(MISSING) or 'root'} is missing; Debian has it as the packages slurm-wlm and munge"
        )
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():  # type: ignore[union-attr]
            print(f"\n{reason}")
        pytest.skip(reason)
    one = Cluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", "")  # and back, when all is over
        try:
            one.start()
            yield one
        finally:
            one.stop()


@pytest.fixture(scope="module")
def command(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Words of a run that is interrupted on a cluster, and nowhere else."""
    place = tmp_path_factory.mktemp("world")
    (place / "slowly.py").write_text(SLOWLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(PACKAGE.parent), str(place)]))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.syspath_prepend(str(place))
        yield [*SMALL, f"model.path={tiny}", "model.lora.rank=null"]


@pytest.fixture(scope="module")
def alone(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], RunFolder]:
    """The same run where nothing interrupts it."""
    from pilotrl.cli.compose import composed_job, parse
    from pilotrl.runs import run as running

    def run(seed: int) -> RunFolder:
        folder = tmp_path_factory.mktemp("alone")
        trust.add(["slowly"])
        job = composed_job(parse([]), [*command, f"seed={seed}", "tracking.uri=off"])
        running.run(job.config, folder)
        return RunFolder(folder)

    return run


def weights(folder: RunFolder) -> Any:
    return json.loads(folder.summary.read_text())["weights_sha256"]


def sooner(cluster: Cluster, job: str) -> None:
    """Bring the time limit of a running job near, but not so near that SLURM, which looks twice a minute, misses it."""
    found = re.search(r"RunTime=(\d+):(\d+):(\d+)", cluster.ask("scontrol", "show", "job", job))
    assert found, job
    hours, minutes, seconds = map(int, found.groups())
    cluster.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + (seconds + 65) // 60 + 1}")


@pytest.mark.slurm
def test_a_sweep_survives_a_time_limit_and_a_cancelled_job(
    cluster: Cluster, command: list[str], alone: Callable[[int], RunFolder], tmp_path: Path
) -> None:
    sweep = cluster.pilotrl(tmp_path, "-m", *command, "seed=0,1,2", "hydra.sweep.dir=sweep", *WITH)
    folders = [RunFolder(tmp_path / "sweep" / str(number)) for number in range(3)]
    cluster.until(lambda: all((folder / "waits").exists() for folder in folders[1:]))
    late, unwanted = cluster.job(1), cluster.job(2)
    sooner(cluster, late)
    cluster.ask("scancel", unwanted)
    said = cluster.end(sweep)
    assert sweep.returncode == 1, said
    assert "pilotrl: sweep/2 (seed=2): was killed or cancelled" in said
    assert [folder.finished for folder in folders] == [True, True, False]
    logs = "".join(path.read_text() for path in (tmp_path / "sweep" / ".submitit").rglob("*_1_0_log.*"))
    assert "Requeued job" in logs
    (line,) = re.findall(r"^  python -m pilotrl (.*)$", said, re.MULTILINE)
    again = cluster.pilotrl(tmp_path, *shlex.split(line))
    said = cluster.end(again)
    assert again.returncode == 0, said
    assert [weights(folder) for folder in folders] == [weights(alone(seed)) for seed in range(3)]
    client = MlflowClient(f"sqlite:///{tmp_path}/multirun/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("pilotrl").experiment_id])  # type: ignore[union-attr]
    (parent,) = [run for run in runs if run.data.params["seed"] == "0,1,2"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {None, parent.info.run_id}
    assert [run.info.status for run in runs] == ["FINISHED"] * 4


@pytest.mark.slurm
def test_two_ranks_make_room_and_go_on(
    cluster: Cluster, command: list[str], alone: Callable[[int], RunFolder], tmp_path: Path
) -> None:
    words = [
        *command,
        "seed=0",
        "trainer.devices=2",
        "tracking.uri=off",
        "hydra.sweep.dir=sweep",
        "hydra.sweep.subdir=1",
    ]
    sweep, folder = cluster.pilotrl(tmp_path, "-m", *words, *WITH), RunFolder(tmp_path / "sweep" / "1")
    cluster.until((folder / "waits").exists)
    saved = next(folder.checkpoints.iterdir()).name
    cluster.ask("sbatch", "--partition=urgent", "--ntasks=4", "--output=/dev/null", "--wrap=true")
    said = cluster.end(sweep)
    assert sweep.returncode == 0, said
    assert saved == "step-000001.ckpt"
    assert len(folder.metrics.read_text().splitlines()) == 3
    ours, theirs = (load_file(f.policy / "model.safetensors") for f in (folder, alone(0)))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-4)


BAD = {
    "no such partition": (
        ("hydra.launcher.partition=nope",),
        "hydra.launcher.partition=nope: SLURM refuses such a job",
    ),
    "more than there is": (("hydra.launcher.mem_gb=999",), "Requested node configuration is not available"),
    "ranks": (("hydra.launcher.tasks_per_node=2",), "tasks_per_node=2: SLURM starts the ranks; set trainer.devices"),
    "nodes": (("hydra.launcher.nodes=2",), "hydra.launcher.nodes=2: SLURM starts the ranks; set trainer.num_nodes"),
    "no time": (("hydra.launcher.timeout_min=1",), "hydra.launcher.timeout_min=1: is too short for one step"),
    "nobody at a time": (("hydra.launcher.array_parallelism=0",), "array_parallelism=0: must be at least 1"),
    "two shapes": (
        ("trainer.devices=1,2",),
        "hydra.launcher.tasks_per_node: is one for all jobs of a sweep, not 1 and 2",
    ),
}


@pytest.mark.slurm
@pytest.mark.parametrize(("words", "says"), BAD.values(), ids=BAD)
def test_what_slurm_would_not_take_is_said_before_anything_is_submitted(
    words: tuple[str, ...],
    says: str,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "env=toy", "model=scratch", "hydra/launcher=slurm", *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert not cluster.ask("squeue", "-h")


def test_no_slurm_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["-m", "env=toy", "model=scratch", "hydra/launcher=slurm"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotrl: hydra/launcher=slurm: there is no sbatch on this machine;")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("saved", [True, False])
def test_a_time_limit_without_a_checkpoint_is_the_last(
    saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN, str(tmp_path))
    settings = {"timeout_min": 10, "signal_delay_s": 60}
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "step-000001.ckpt").touch()
    with folder.lock():
        if saved:
            (folder.checkpoints / "step-000002.ckpt").touch()
            slurm.refuse_to_repeat(settings, time.time() - 550)
        else:
            os.utime(folder.checkpoints / "step-000001.ckpt", (0, 0))
            slurm.refuse_to_repeat(settings, time.time() - 100)  # preempted: that says nothing
            with pytest.raises(slurm.Stopped, match="timeout_min=10: is too short to reach the next checkpoint"):
                slurm.refuse_to_repeat(settings, time.time() - 550)

"""How jobs of a sweep are started elsewhere: what SLURM would refuse, how one waits for them, and when one is requeued."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NoReturn

from hydra.core.utils import JobReturn, JobStatus

from pilotrl.store.run_folder import RUN, RunFolder
from pilotrl.types import UserError

reasons: dict[int, str] = {}
"""Numbers of jobs of this command that went wrong, and what one knows about each in a line. A job that runs alone is 0."""

finished: set[int] = set()
"""Numbers of jobs of this command that need not be started again."""

POLL = 3.0
"""Seconds between two looks at the queue."""
EARLY = 60.0
"""Seconds by which SLURM may send a signal before its time (sbatch's manual, --signal)."""
OURS = ("_target_", "submitit_folder", "max_num_timeout")
"""Keys of a launcher that are no parameters of a job."""
NAMED = {"partition": "partition", "account": "account", "qos": "qos", "time limit": "timeout_min"}
"""Words in a refusal of SLURM, and the key that they are about."""


class Stopped(SystemExit):
    """Ends a run from inside a signal handler; as no mere Exception it passes whatever retries or reports those."""


def stop(number: int, frame: object) -> NoReturn:
    """SIGTERM: the job was cancelled, or has to make room and will be requeued by SLURM itself."""
    raise SystemExit(128 + number)


def refuse_to_repeat(settings: Mapping[str, Any], began: float) -> None:
    """Raises Stopped at a time limit that was reached without a new checkpoint: another go would come no further."""
    limit = 60 * settings["timeout_min"]
    if time.time() - began < limit - settings["signal_delay_s"] - EARLY:
        return  # preempted, which says nothing about the time it needs
    folder = RunFolder(os.environ.get(RUN, os.devnull))
    with contextlib.suppress(OSError):
        saved = max(
            (path.stat().st_mtime for path in folder.path.rglob("*.ckpt")), default=0.0
        )  # of a chain, its stages'
        if saved >= (folder / ".lock").stat().st_mtime:  # written when this go began
            return
    raise Stopped(
        f"hydra.launcher.timeout_min={settings['timeout_min']}: is too short to reach the next checkpoint; raise it, "
        "or lower checkpoint.every"
    )


# Before anything is submitted.


def check(settings: Mapping[str, Any], devices: int, nodes: int) -> None:
    """Raises UserError where SLURM would not take such a job, or would end it before it has done anything.

    settings: of `conf/hydra/launcher/slurm.yaml`; devices, nodes: what Lightning is told."""
    for tool in ("sbatch", "srun", "squeue"):
        if shutil.which(tool) is None:
            raise UserError(
                f"hydra/launcher=slurm: there is no {tool} on this machine; go where SLURM is, or take hydra/launcher=local"
            )
    for key in ("timeout_min", "nodes", "tasks_per_node", "array_parallelism"):
        if settings[key] < 1:
            raise UserError(f"hydra.launcher.{key}={settings[key]}: must be at least 1")
    for key, ours, wanted in (("tasks_per_node", "devices", devices), ("nodes", "num_nodes", nodes)):
        if settings[key] != wanted:
            raise UserError(f"hydra.launcher.{key}={settings[key]}: SLURM starts the ranks; set trainer.{ours} alone")
    if 60 * settings["timeout_min"] <= settings["signal_delay_s"]:
        raise UserError(
            f"hydra.launcher.timeout_min={settings['timeout_min']}: is too short for one step, since a job is told to "
            f"stop hydra.launcher.signal_delay_s={settings['signal_delay_s']} seconds before; raise it"
        )
    script = executor("slurm", settings)._executor._make_submission_file_text("true", "check")
    asked = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
    if asked.returncode:
        raise refusal(settings, asked.stderr)


def refusal(settings: Mapping[str, Any], said: str) -> UserError:
    """What SLURM said last, with the key that it is about where that can be told."""
    reason = (said.strip().splitlines() or ["no reason given"])[-1].rpartition(": ")[2]
    key = next((key for word, key in NAMED.items() if word in reason.lower()), None)
    name = f"hydra.launcher.{key}={settings[key]}" if key else "hydra/launcher=slurm"
    return UserError(f"{name}: SLURM refuses such a job ({reason}); sinfo -o '%P %l %D %c %m %G' shows what there is")


# Submission, and the wait.


def executor(cluster: str, settings: Mapping[str, Any]) -> Any:
    """Submitit's, with the settings of a launcher. On SLURM one dead rank ends the job, and none waits for another's end."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    common = {field.name for field in fields(BaseQueueConf)}
    given = {key: value for key, value in settings.items() if key not in OURS and value is not None}
    parameters = {key if key in common else f"{cluster}_{key}": value for key, value in given.items()}
    limits = {}
    if cluster == "slurm":
        parameters["slurm_srun_args"] = ["--kill-on-bad-exit=1", "--wait=0"]
        limits = {"slurm_max_num_timeout": settings["max_num_timeout"]}
    made = submitit.AutoExecutor(folder=settings["submitit_folder"], cluster=cluster, **limits)
    made.update_parameters(**parameters)
    return made


def outcome(number: int, job: Any) -> JobReturn:
    """Wait for the end of a job, however it ends. Its first rank speaks for it."""
    first = job.task(0)
    while not first.paths.result_pickle.exists() and is_alive(first):
        pass
    spoke = first.paths.result_pickle.exists()
    if spoke and first.exception() is None:
        done: JobReturn = first.result()
        if done.return_value is not None:
            reasons[number] = done.return_value
        return done
    reasons[number] = f"{'failed' if spoke else 'was killed or cancelled'}; its last words are in {first.paths.folder}"
    return JobReturn(status=JobStatus.COMPLETED)


def is_alive(job: Any) -> bool:
    """Look after a while whether a job still runs or waits. SLURM's queue is asked: not every cluster keeps accounts."""
    import submitit

    if not isinstance(job, submitit.SlurmJob):
        time.sleep(0.2)
        return not job.done()
    for _ in range(2):  # one that is moved may be out of sight for a moment, or its result on the way
        time.sleep(POLL)
        queue = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        asked = subprocess.run(queue, capture_output=True, text=True)
        if asked.returncode or job.job_id in asked.stdout.split():
            return True
    return False

"""Hydra launchers for sweeps, on submitit: they wait for all jobs even if one fails, and requeue a job at its time limit.

Hydra finds launchers in this package; the logic is in `pilotrl/cli/slurm.py`."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher as theirs

from pilotrl.cli import slurm


class Patient:
    """A launcher that waits for every job, even if others fail."""

    _EXECUTOR: str
    config: Any
    params: dict[str, Any]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the jobs that are not finished, and return their results; a job without one is listed in `slurm.reasons`."""
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        jobs = {number: list(words) for number, words in enumerate(job_overrides, initial_job_idx)}
        todo, same = [number for number in jobs if number not in slurm.finished], Singleton.get_state()
        if not todo:
            return []
        each = [(jobs[number], "hydra.sweep.dir", number, "", same) for number in todo]
        started = slurm.executor(self._EXECUTOR, self.params).map_array(self, *zip(*each, strict=True))
        return [slurm.outcome(number, job) for number, job in zip(todo, started, strict=True)]


class LocalLauncher(Patient, theirs.LocalLauncher):  # type: ignore[misc]
    """`hydra/launcher=local`: concurrent processes on this machine."""


class SlurmLauncher(Patient, theirs.SlurmLauncher):  # type: ignore[misc]
    """`hydra/launcher=slurm`: a job array on a cluster. SIGTERM ends a run, which is safe at any moment; submitit handles the
    signal before the time limit, and has requeued the job by then."""

    def __call__(self, *given: Any) -> JobReturn:
        self.began = time.time()
        signal.signal(signal.SIGTERM, slurm.stop)
        done: JobReturn = super().__call__(*given)
        return done

    def checkpoint(self, *given: Any, **named: Any) -> Any:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the job ends anyway, and requeueing must not be interrupted
        slurm.refuse_to_repeat(self.params, self.began)
        return super().checkpoint(*given, **named)

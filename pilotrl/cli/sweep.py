"""Runs the jobs of a sweep under one MLflow run, prints their table at the end, and says what is left to do."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pilotrl.cli import sweep_progress
from pilotrl.cli.slurm import finished, reasons
from pilotrl.store.run_folder import RunFolder
from pilotrl.store.text import printable
from pilotrl.tracking.sweeps import swept
from pilotrl.tracking.sync_state import RunInfo
from pilotrl.tracking.tracker import Tracker


@dataclass(frozen=True)
class Sweep:
    """What is known of a sweep before it starts."""

    folder: RunFolder
    uri: str | None
    """Of MLflow."""
    experiment: str
    jobs: dict[RunFolder, list[str]] = field(default_factory=dict)
    """The folder of each job, by their numbers, and what was asked of it: `seed=0`."""

    def run_info(self) -> RunInfo:
        """What the sweep is called in MLflow. Its parameters are what the jobs have in common, and what was swept."""
        values: dict[str, dict[str, None]] = {}
        for words in self.jobs.values():
            for key, _, value in (word.partition("=") for word in words):
                values.setdefault(key.lstrip("+"), {})[value] = None
        tags = {"folder": str(self.folder.path.absolute()), "jobs": str(len(self.jobs))}
        params = {key: ",".join(each) for key, each in values.items()}
        jobs = {str(folder.path.relative_to(self.folder.path)): words for folder, words in self.jobs.items()}
        return RunInfo(self.experiment, self.folder.path.absolute().name, params, tags, jobs=swept(jobs))

    def unfinished(self, *, certain: bool) -> Iterator[str]:
        """Jobs without a summary, and why. Unless it is certain that all are over, a job may still wait or run."""
        everywhere = set.intersection(*map(set, self.jobs.values()))
        for number, (folder, words) in enumerate(self.jobs.items()):
            if not folder.finished and (number in reasons or not certain):
                own = " ".join(word for word in words if word not in everywhere)
                yield f"{folder} ({own}): {reasons.get(number, 'is not finished')}"


def run_sweep(sweep: Sweep, start: Callable[[], None], argv: Sequence[str]) -> int:
    """Start the jobs, and keep the sweep's run in MLflow meanwhile. Returns 1 where something is left to do.

    Raises UserError while another command works on the same sweep."""
    finished.clear()
    finished.update(number for number, folder in enumerate(sweep.jobs) if folder.finished)
    with sweep.folder.lock():
        tracker, over = Tracker(sweep.folder.path, sweep.uri, sweep.run_info()), False
        sweep_progress.watch(sweep.jobs)
        try:
            start()
            over = True
        finally:
            sweep_progress.here.clear()
            left = list(sweep.unfinished(certain=over))
            sweep_progress.show(sweep.folder.path, sweep.jobs, sweep.uri)
            notify(sweep, left, argv)
            tracker.finish("FINISHED" if not left else "FAILED" if over else "KILLED")
    return 1 if left else 0


def notify(sweep: Sweep, left: Sequence[str], argv: Sequence[str]) -> None:
    """Which jobs are not finished, why, and the command that goes on with them."""
    for line in left:
        print(f"pilotrl: {printable(line)}", file=sys.stderr)
    if left:
        print(
            f"pilotrl: {len(left)} of {len(sweep.jobs)} jobs are not finished; this goes on with those and no other:\n"
            f"  python -m pilotrl {shlex.join(argv)}",
            file=sys.stderr,
        )

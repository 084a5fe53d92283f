"""What the terminal says of a sweep: which job begins, how it ended, and one table of them all. No torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pilotrl.analysis.sweep_table import LEGEND, SweepJob, success_line, sweep_table
from pilotrl.analysis.terminal import WIDE, commands, guarded
from pilotrl.store.run_folder import RunFolder
from pilotrl.store.text import printable

Jobs = Mapping[RunFolder, Sequence[str]]
"""The folder of each job, by their numbers, and what was asked of it: `seed=0`."""

here: list[str] = []
"""A heading for each job of the sweep that this process runs; empty in a process that runs one job alone, as on a cluster."""


def swept(jobs: Jobs) -> Iterator[dict[str, str]]:
    """Of each job the keys that are not the same in all of them, and its values."""
    everywhere = set.intersection(*map(set, jobs.values()))
    for words in jobs.values():
        own = (word.partition("=") for word in words if word not in everywhere)
        yield {key.lstrip("+"): value for key, _, value in own}


def watch(jobs: Jobs) -> None:
    """Say from now on what becomes of these jobs, where this process runs them itself."""
    here[:] = [
        " ".join([f"job {number} of {len(jobs)}:", *(f"{key}={value}" for key, value in own.items())])
        for number, own in enumerate(swept(jobs), start=1)
    ]


def announce(number: int) -> None:
    """Before a job: `job 3 of 8: seed=2`. number: from 0, as Hydra counts."""
    if here:  # other sweepers than Hydra's own do not say beforehand how many there will be
        print(f"\n{here[number] if number < len(here) else f'job {number + 1}'}", flush=True)


def conclude(number: int, folder: Path, reason: str | None) -> None:
    """After a job, in a line: what it gained, or the reason why it is not finished."""
    if not here:
        return
    if reason is not None:
        print(f"job {number + 1} is not finished: {printable(reason)}", flush=True)
        return
    summary = summary_of(RunFolder(folder)) or {}
    seconds = [f"{summary['seconds']:.0f} s"] if "seconds" in summary else []
    told = "; ".join(filter(None, [success_line(summary), *seconds]))
    print(f"job {number + 1} is finished{told and ': '}{told}", flush=True)


def summary_of(folder: RunFolder) -> dict[str, Any] | None:
    """summary.json; None of a run that is not finished."""
    return folder.results() if folder.finished else None


def show(folder: Path, jobs: Jobs, uri: str | None) -> None:
    """The table of all jobs, finished or not, and the commands that go on from here. folder: of the sweep."""
    rows = [
        SweepJob(number, own, _inside(job.path, folder), summary_of(job))
        for number, (job, own) in enumerate(zip(jobs, swept(jobs), strict=True), start=1)
    ]
    console = guarded(Console(width=None if sys.stdout.isatty() else WIDE, highlight=False))
    done = sum(row.summary is not None for row in rows)
    console.print()
    console.print(sweep_table(f"success in {done} of {len(rows)} jobs of {folder}", rows))
    console.print()
    for name, meaning in LEGEND.items():
        console.print(f"  {name:<15}{meaning}", style="dim", markup=False, soft_wrap=True)
    console.print()
    for line in commands(folder, uri):
        console.print(line, markup=False, soft_wrap=True)


def _inside(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

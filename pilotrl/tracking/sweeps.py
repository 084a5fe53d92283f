"""What MLflow shows of a sweep: names that tell its jobs apart, and on the page of its own run what became of each job.

Everything is read from the folders: the sweep's `mlflow.json` says what was swept, each job's what became of it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotrl.analysis.measures import RATES
from pilotrl.store.reading import read_json
from pilotrl.store.text import code, markdown
from pilotrl.tracking.run_description import Point, shown
from pilotrl.tracking.sync_state import STATE_FILE, SyncState
from pilotrl.types import UserError

Jobs = Mapping[str, Mapping[str, str]]
"""By the folder of each job below the sweep's: the settings in which the jobs differ, as they were typed."""

SUMMARY = "summary.json"
WORD = 24
"""Characters of one swept value in a name."""
NOTE_SIZE = 7000
"""Characters of a description; MLflow keeps 8000."""
GAIN = ("success before", "success after", "gain", "95 % interval")
TABLE = ("success_before", "success_after", "success_gain", "gain_low", "gain_high")


def swept(jobs: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Of the overrides of each job (`seed=0`), those in which the jobs differ: `{"0": {"seed": "0"}, ...}`."""
    settings = {
        folder: {key.lstrip("+"): value for key, _, value in (line.partition("=") for line in lines)}
        for folder, lines in jobs.items()
    }
    keys = dict.fromkeys(key for given in settings.values() for key in given)
    differ = [key for key in keys if len({given.get(key) for given in settings.values()}) > 1]
    return {folder: {key: given.get(key, "") for key in differ} for folder, given in settings.items()}


def run_name(folder: Path, *, stage: str, env: str, seed: int) -> str:
    """`stage-env-seed`; for a job of a sweep with what was swept and is not among the three: `coordination-webshop-ppo-1`.

    No two jobs of a sweep get the same: where the words do not tell them apart, the job's folder does (`job3`)."""
    held = {"stage": stage, "env": env, "seed": str(seed)}
    return "-".join([stage, env, *_words(folder.absolute(), held), str(seed)])


def _words(folder: Path, held: Mapping[str, str]) -> list[str]:
    for above in folder.parents:
        if jobs := _jobs_in(above):
            name = folder.relative_to(above)
            job = next((each for each in map(str, (name, *name.parents)) if each in jobs), None)
            if job is None:  # of a sweeper that decides what to try while it runs
                return [f"job{name.parts[0]}"]
            told = {each: "-".join(_word(*item) for item in given.items()) for each, given in jobs.items()}
            words = [_word(key, value) for key, value in jobs[job].items() if held.get(key) != value]
            return words if Counter(told.values())[told[job]] == 1 else [*words, f"job{job.replace('/', '_')}"]
    return []


def _jobs_in(sweep: Path) -> Jobs | None:
    try:
        jobs: Jobs | None = json.loads((sweep / STATE_FILE).read_text()).get("jobs")
    except (OSError, ValueError):
        return None
    return jobs


def _word(key: str, value: str) -> str:
    """`ppo` for `algorithm=ppo`, `lr=0.001` for `train.lr=0.001`."""
    short = re.sub(r"[^\w.+-]+", "_", value.strip("'\"").rstrip("/").rpartition("/")[2]).strip("_")[:WORD]
    _, dot, last = key.partition("@")[0].rpartition(".")
    return f"{last}={short}" if dot else short


@dataclass(frozen=True)
class Job:
    """What became of one job of a sweep."""

    number: int
    folder: Path
    settings: Mapping[str, str]
    status: str
    """As MLflow calls it, or WAITING."""
    changed: int | None
    """When its summary was written, in nanoseconds since 1970; None: it is not over."""

    @property
    def mark(self) -> list[Any]:
        """What changes when there is something new to say of the job."""
        return [self.status, self.changed]

    def results(self) -> dict[str, dict[str, float | None]]:
        """before, after and gain (with low and high) of each measure, own plans; empty while there are none."""
        if self.changed is None:
            return {}
        block = read_json(self.folder / SUMMARY).get("eval")
        if not block:
            return {}
        return {
            name: {when: block[when].get(name) for when in ("before", "after")} | _gain(block["paired"].get(name) or {})
            for name in RATES
        }

    def points(self, begun: float) -> Iterator[tuple[Point, float]]:
        """`eval/success_after` and the like at the job's number, and when it was over, in seconds since 1970.

        begun: when the sweep was, for a job that did not note when it ended."""
        if results := self.results():
            when = max(SyncState(self.folder).times().values(), default=begun)
            for name, values in results.items():
                for what in ("before", "after", "gain"):
                    if (value := values[what]) is not None:
                        yield (f"eval/{name}_{what}", value, self.number), when

    def row(self) -> list[Any]:
        """Its line in the table that MLflow keeps: number, settings, status, and the columns of `TABLE`."""
        success = self.results().get("success", {})
        numbers = [success.get(what) for what in ("before", "after", "gain", "low", "high")]
        return [self.number, *self.settings.values(), self.status, *numbers]

    def line(self) -> str:
        """Its line in the description."""
        success = self.results().get("success", {})
        low, high = (shown("success", success.get(end), "+") for end in ("low", "high"))
        cells = [shown("success", success.get(what)) for what in ("before", "after")]
        cells += [shown("success", success.get("gain"), "+"), "-" if "-" in (low, high) else f"{low} to {high}"]
        return _row([str(self.number), *self.settings.values(), self.status, *cells])


def jobs_of(sweep: Path, jobs: Jobs) -> list[Job]:
    """The jobs of a sweep by their numbers."""
    own = [sweep / name for name in jobs]
    if strange := next((path for path in own if not path.resolve().is_relative_to(sweep.resolve())), None):
        raise ValueError(f"{strange} is no folder of a job")
    return [
        _job(number, path, settings) for number, (path, settings) in enumerate(zip(own, jobs.values(), strict=True))
    ]


def points(jobs: Sequence[Job], begun: float) -> Iterator[tuple[Point, float]]:
    """What the evaluations of all finished jobs measured, at the number of each as the step; see `Job.points`."""
    for job in jobs:
        yield from job.points(begun)


def table(jobs: Sequence[Job]) -> dict[str, Any]:
    """One row a job, as MLflow's `load_table` reads it."""
    return {"columns": ["job", *jobs[0].settings, "status", *TABLE], "data": [job.row() for job in jobs]}


def description(folder: str, jobs: Sequence[Job]) -> str:
    """Markdown for the page of the sweep's run; jobs beyond what MLflow keeps of a description are counted only."""
    columns = ["job", *jobs[0].settings, "status", *GAIN]
    head = [_row(columns), "|---" * len(columns) + "|"]  # first: MLflow shows the beginning and hides the rest
    tail = ["", f"A sweep of {len(jobs)} jobs. Folder: {code(folder)}"]
    lines, size = [job.line() for job in jobs], sum(map(len, head + tail))
    ends = [size := size + len(line) + 1 for line in lines]
    kept = sum(end <= NOTE_SIZE for end in ends)
    rest = [] if kept == len(lines) else ["", f"... and {len(lines) - kept} more, all in `jobs.json`."]
    return "\n".join([*head, *lines[:kept], *rest, *tail])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown(cell) for cell in cells) + " |"


def _job(number: int, folder: Path, settings: Mapping[str, str]) -> Job:
    summary = folder / SUMMARY
    changed = summary.stat().st_mtime_ns if summary.exists() else None
    try:
        status = str(SyncState(folder).read()["status"])
    except (KeyError, UserError):  # it has not begun, or its file is broken
        status = "WAITING" if changed is None else "FINISHED"
    return Job(number, folder, settings, status, changed)


def _gain(paired: Mapping[str, float | None]) -> dict[str, float | None]:
    return {"gain": paired.get("mean"), "low": paired.get("low"), "high": paired.get("high")}

"""Run folders as a report reads them: found, read, or refused with a reason. No number is taken from anywhere else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pilotrl.analysis.measures import BLOCKS
from pilotrl.analysis.statistics import MEASURES, per_task
from pilotrl.cli.renamed import METRICS, translated
from pilotrl.cli.stored_config import began_in, plain_config
from pilotrl.cli.validate import flat
from pilotrl.store.reading import read_json, read_lines, read_yaml
from pilotrl.store.records import levels_of, read_episodes
from pilotrl.store.redact import without_secrets
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import Episode, Task, UserError

SCHEMA = 1
"""Of summary.json, the only one that is read."""
ASIDE = ("seed", "root", "tracking", "checkpoint", "trainer", "drift", "trust")
"""Nodes of the configuration that say where and how a run is computed and watched, or which of several equal ones it is."""
DECODINGS = ("sampled", "greedy")


BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, UserError)
BROKEN += (YAMLError, OmegaConfBaseException)  # type: ignore[assignment]
"""What reading a folder raises that is not what a run leaves behind."""


class Refused(Exception):
    """Why a run is left out, in words that follow `it`."""


class Cell(NamedTuple):
    """What one number of an evaluation set is about."""

    block: str
    """`eval` (the policy's own plans) or `eval_teacher`."""
    decoding: str
    measure: str


@dataclass(frozen=True)
class Run:
    """A finished run."""

    name: str
    """Its folder, as short as the folders of a report allow."""
    keys: dict[str, Any]
    """Its configuration and, under `parent.`, that of the run it started from: dotted keys, less those of `ASIDE`."""
    seeds: list[int]
    """Its own, that of the run it started from, and so on."""
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    panel: dict[str, Any]
    """What the hash of its evaluation set is over; only the hash where the folder does not say."""
    before: dict[Cell, dict[Task, float]]
    after: dict[Cell, dict[Task, float]]
    learned: dict[str, float] = field(default_factory=dict)
    """The learning rate summed over all optimizer updates, for each role that was trained; empty where that is not known."""
    levels: dict[str, str] = field(default_factory=dict)
    """Of the tasks that have one, by name."""

    @property
    def seed(self) -> int:
        """Its own, which may differ from those of its configuration only by that of a run it started from."""
        return self.seeds[0]

    @property
    def stages(self) -> list[tuple[str, int]]:
        """Of a chain, in order: a stage's name, and the chain's step at which it began; nothing of any other run."""
        told = self.summary.get("stages", [])
        begins = accumulate((stage["steps"] for stage in told), initial=1)
        return [(stage["stage"], begin) for stage, begin in zip(told, begins, strict=False)]

    @property
    def env_steps(self) -> float:
        """Actions that were carried out in training; of episodes that broke none are counted."""
        whole = [line for line in self.metrics if line.get("env/turns") is not None]
        return float(sum(line["env/turns"] * (line["env/episodes"] - line["train/broken"]) for line in whole))

    @property
    def cells(self) -> list[Cell]:
        """What was measured, in the order of summary.json."""
        return list(self.after)


def find(places: Sequence[Path]) -> dict[str, RunFolder]:
    """Every run in or below the given folders, under the shortest name that tells them apart.

    Raises UserError for a folder that holds none.
    """
    found: dict[Path, RunFolder] = {}
    for place in places:
        folders = [place] if RunFolder(place).begun else _runs_below(place)
        if not folders:
            known = "name folders of runs, of sweeps, or one that holds some of them"
            raise UserError(f"{place}: holds no run, that is no .hydra/config.yaml; {known}")
        found |= {folder.resolve(): RunFolder(folder) for folder in sorted(folders, key=natural)}
    parts = [path.parts for path in found]
    shared = 0
    while len(found) > 1 and len({part[: shared + 1] for part in parts}) == 1 and shared + 1 < min(map(len, parts)):
        shared += 1
    kept = [part[shared:] if len(found) > 1 else part[-1:] for part in parts]
    return {"/".join(part): folder for part, folder in zip(kept, found.values(), strict=True)}


def _runs_below(place: Path) -> list[Path]:
    """Folders of runs, without the stages of a chain: a chain is a run."""
    folders = {path.parent.parent for path in place.rglob(".hydra/config.yaml")}
    return [folder for folder in folders if folder.parent not in folders]


def natural(path: Path) -> list[tuple[int, str]]:
    """Sorts 10 after 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]


def read(name: str, folder: RunFolder) -> Run:
    """A finished run, whose numbers have been checked against its episodes. Raises Refused for any other."""
    try:
        if not folder.finished:
            raise Refused(f"is not finished ({_progress(folder)}); python -m pilotrl resume={folder} goes on with it")
        summary = folder.results()
        if summary["schema"] != SCHEMA:
            raise Refused(f"has a summary.json of schema {summary['schema']}, and schema {SCHEMA} is read here")
        before, after = _values(folder.episodes, summary)
        metrics, panel, learned = _metrics(folder, summary), _panel(folder, summary), _learned(folder, summary)
        return Run(name, *configuration(folder), summary, metrics, panel, before, after, learned, levels_of(panel))
    except UserError as error:
        raise Refused(f"is broken: {error}") from error
    except BROKEN as error:
        reason = str(error).partition("\n")[0]
        raise Refused(f"is broken and cannot be read ({type(error).__name__}: {reason})") from error


def block(summary: Mapping[str, Any], of: str, decoding: str) -> Mapping[str, Any] | None:
    """The part of summary.json with `before`, `after` and `paired`; None where that was not played."""
    found: Mapping[str, Any] | None = summary[of]
    return found.get("greedy") if found and decoding == "greedy" else found


def configuration(folder: RunFolder) -> tuple[dict[str, Any], list[int]]:
    """What decides what a run learns, under dotted keys; a parent stands for its configuration, not for its folder. And the
    seeds, of the run and of those that its weights come from: two runs that share both are the same run."""
    keys = _keys(folder)
    parent, seeds = keys.get("parent"), [int(keys["seed"])]
    kept = {key: value for key, value in keys.items() if key.split(".")[0] not in ASIDE}
    if parent is not None and (before := RunFolder(began_in(folder) / parent)).begun:
        del kept["parent"]
        theirs, more = configuration(before)
        kept, seeds = kept | {f"parent.{key}": value for key, value in theirs.items()}, seeds + more
    return kept, seeds


def _keys(folder: RunFolder) -> dict[str, Any]:
    stored: Any = without_secrets(plain_config(folder))
    return flat(OmegaConf.create(translated(stored)))


def _learned(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, float]:
    """`train/lr` of every step times the updates that it is cut into; of a chain, of its stages, which differ in roles."""
    found: defaultdict[str, float] = defaultdict(float)
    stages = [RunFolder(path.parent.parent) for path in sorted(folder.path.glob("*/.hydra/config.yaml"))]
    for part in stages if summary.get("stages") else [folder]:
        keys, lines = _keys(part), list(read_lines(part.metrics)) if part.metrics.is_file() else []
        rates = [float(line["train/lr"]) for line in lines if line.get("train/lr") is not None]
        if len(rates) < len(lines) or not lines:
            return {}
        for role in keys["stage.trains"]:
            found[role] += min(keys["train.minibatches"], keys["train.tasks"]) * sum(rates)
    return dict(found)


def _metrics(folder: RunFolder, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every step's, in the names of today: a run that was resumed after a renaming has both."""
    lines, steps = list(read_lines(folder.metrics)), summary["train"]["steps"]
    if len(lines) != steps:
        raise Refused(f"is broken: metrics.jsonl has {len(lines)} lines of {steps} steps")
    return [{METRICS.get(key, key): value for key, value in line.items()} for line in lines]


def _progress(folder: RunFolder) -> str:
    done = folder.metrics.read_bytes().count(b"\n") if folder.metrics.is_file() else 0
    return f"{done} of {read_yaml(folder.config).train.steps} steps"


def _panel(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, Any]:
    """panel.json in the names of today, where it is that of the summary."""
    path, sha256 = folder / "panel.json", summary["panel"]["sha256"]
    record = translated(read_json(path)) if path.exists() else {}
    return record if record.get("sha256") == sha256 else {"sha256": sha256}


def _values(path: Path, summary: Mapping[str, Any]) -> Iterator[dict[Cell, dict[Task, float]]]:
    """A number a task for each cell, before and after. Raises Refused where they do not give the summary's means."""
    played = _played(path)
    for when in ("before", "after"):
        values: dict[Cell, dict[Task, float]] = {}
        for of, planner in BLOCKS.items():
            for decoding in DECODINGS:
                for measure, mean in ((block(summary, of, decoding) or {}).get(when) or {}).items():
                    cell = Cell(of, decoding, measure)
                    values[cell] = per_task(played[f"{when}/{planner}, {decoding}"], MEASURES[measure])
                    _check(cell, when, mean, values[cell])
        yield values


def _check(cell: Cell, when: str, mean: float | None, values: Mapping[Task, float]) -> None:
    again = fmean(values.values()) if values else None
    same = again is None if mean is None else again is not None and math.isclose(mean, again, abs_tol=1e-9)
    if not same:
        raise Refused(f"is broken: {when}, {' '.join(cell)} is {mean} in summary.json and {again} by episodes.jsonl")


def _played(path: Path) -> dict[str, list[Episode]]:
    """The episodes of evaluations, by phase; those of training are most of the file, and are not parsed."""
    played: defaultdict[str, list[Episode]] = defaultdict(list)
    for phase, episode in read_episodes(path, lambda line: not line.startswith('{"phase": "train"')):
        played[phase].append(episode)
    return played

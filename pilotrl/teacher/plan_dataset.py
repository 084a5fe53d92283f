"""The plan dataset on disk: every plan that was written, with its grades, and those good enough as Parquet files.

OUT/settings.json        the teacher, the judge and the environment
OUT/written.jsonl        a line for each plan and one for its grades; an interrupted command continues from it
OUT/data/SPLIT.parquet   the plans that were kept
OUT/README.md            the dataset card, with which `datasets.load_dataset(OUT)` finds them
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pilotrl.store.run_folder import Lines, write_whole
from pilotrl.types import Plan, PlanScores, UserError

REACHING = {"base_url", "credential", "timeout", "concurrency", "requests_per_minute", "attempts", "backoff", "cache"}
REACHING |= {"price_prompt", "price_reply"}
"""Keys of an endpoint on which its replies do not depend."""
READ = pa.schema({"env": pa.string(), "task": pa.string(), "observation": pa.string(), "plan": pa.list_(pa.string())})
"""Columns that a reader needs."""
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("env", "task", "observation", "teacher", "judge")),
        ("plan", pa.list_(pa.string())),
        *((name, pa.int64()) for name in ("sample", *PlanScores._fields)),
    ]
)
CARD = """\
---
configs:
- config_name: default
  data_files:
{files}
---
# Plans for {envs}

{kept} plans for {tasks} tasks, written by {teacher} and graded by {judge}. A row is a task, its first observation, a plan from
the first action on, and the plan's grades from 1 to 5. Kept is what has {rule}; of each task the best {best}.

    from datasets import load_dataset
    plans = load_dataset("FOLDER_OF_THIS_FILE")
"""
Key = tuple[str, str]
"""(split, task)."""


@dataclass(frozen=True)
class Threshold:
    """The grades that a plan needs to be kept, each from 1 to 5 (PilotRL, arXiv 2508.00344)."""

    mean: float
    correctness: int
    others: int

    def why_not(self, scores: PlanScores) -> str | None:
        """The first grade that is too low; None if the plan passes."""
        for name, score, minimum in zip(
            scores._fields, scores, (self.correctness, self.others, self.others), strict=True
        ):
            if score < minimum:
                return f"{name} below {minimum}"
        return f"mean below {self.mean}" if fmean(scores) < self.mean else None

    def __str__(self) -> str:
        return f"a mean of at least {self.mean}, correctness at least {self.correctness}, the others at least {self.others}"


@dataclass
class Candidate:
    """A plan that was written for a task before its first action."""

    env: str
    split: str
    task: str
    sample: int
    observation: str
    steps: Plan | None
    """None: there was no reply, or none that could be parsed."""
    scores: PlanScores | None = None
    """None: no verdict, or not yet."""


class PlanSet:
    """The plans written so far, by task and in the order of samples, backed by a folder."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Continues the set in `path`, or creates it.

        Raises UserError if the folder holds something else, or a set with another teacher, judge or environment.
        """
        self.path, self.settings = path, settings
        self.written: dict[Key, dict[int, Candidate]] = defaultdict(dict)
        check(path, settings)
        path.mkdir(parents=True, exist_ok=True)
        write_whole(path / "settings.json", json.dumps(settings, indent=2) + "\n")
        for line in _whole_lines(path / "written.jsonl"):
            self._restore(line)
        self.lines = Lines(path / "written.jsonl")

    def __enter__(self) -> PlanSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()

    def of(self, key: Key) -> list[Candidate]:
        """The plans for a task, in the order of samples."""
        return [one for _, one in sorted(self.written[key].items())]

    def add(self, one: Candidate) -> None:
        """Store a plan on disk; a reply that is no plan only in memory, so that a later command asks again."""
        self.written[one.split, one.task][one.sample] = one
        if one.steps is not None:
            self.lines.write({name: value for name, value in asdict(one).items() if name != "scores"})

    def grade(self, one: Candidate, scores: PlanScores | None) -> None:
        """Store a plan's grades on disk; nothing if there are none, so that it may be graded later."""
        one.scores = scores
        if scores is not None:
            self.lines.write({"split": one.split, "task": one.task, "sample": one.sample, "scores": scores})

    def _restore(self, line: Mapping[str, Any]) -> None:
        """Restore a line that an earlier process wrote."""
        if "scores" in line:
            self.written[line["split"], line["task"]][line["sample"]].scores = PlanScores(*line["scores"])
        else:
            self.written[line["split"], line["task"]][line["sample"]] = Candidate(
                **{**line, "steps": tuple(line["steps"])}
            )

    def export(self, bar: Threshold, best: int) -> tuple[int, Counter[str]]:
        """Write the Parquet files and the card; returns how many plans were kept, and why the others were not."""
        reasons, rows = Counter[str](), defaultdict[str, list[Candidate]](list)
        for key in sorted(self.written):
            kept, others = sift(self.of(key), bar, best)
            rows[key[0]] += kept
            reasons += others
        who = {"teacher": called(self.settings["teacher"]), "judge": called(self.settings["judge"])}
        (self.path / "data").mkdir(exist_ok=True)
        for split, kept in rows.items():
            table = pa.Table.from_pylist([_row(one) | who for one in kept], SCHEMA)
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            write_whole(self.path / "data" / f"{split}.parquet", sink.getvalue().to_pybytes())
        kept = [one for split in rows.values() for one in split]
        write_whole(self.path / "README.md", _card(kept, sorted(rows), who, bar, best))
        return len(kept), reasons


def sift(candidates: Sequence[Candidate], bar: Threshold, best: int) -> tuple[list[Candidate], Counter[str]]:
    """Of one task: the best plans that pass, best first, and why the others were dropped."""
    reasons, passed = Counter[str](), list[tuple[float, Candidate]]()
    repeats = len(candidates) - len(unique := distinct(candidates))
    for one in unique:
        if why := _why_not(one, bar):
            reasons[why] += 1
        elif one.scores:
            passed.append((fmean(one.scores), one))
    passed.sort(key=lambda pair: -pair[0])
    reasons.update(
        {"says what another one says": repeats, f"passed, but is not among the best {best}": len(passed[best:])}
    )
    return [one for _, one in passed[:best]], +reasons


def _why_not(one: Candidate, bar: Threshold) -> str | None:
    if one.steps is None:
        return "no answer, or none that is a plan"
    return "no grades" if one.scores is None else bar.why_not(one.scores)


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates without exact duplicates of an earlier plan."""
    first: dict[Plan | int, Candidate] = {}
    for one in candidates:
        first.setdefault(one.sample if one.steps is None else one.steps, one)
    return list(first.values())


def read(path: Path) -> Iterator[tuple[str, str, str, Plan]]:
    """(env, task, observation, plan) of every row of a dataset. Raises UserError if there is none, or it cannot be read."""
    files = [path] if path.is_file() else sorted((path / "data").glob("*.parquet"))
    if not files:
        raise UserError(f"path={path}: holds no set of plans; python -m pilotrl.plans writes one")
    for file in files:
        try:
            table = pq.read_table(file, columns=READ.names).select(READ.names).cast(READ)
        except (OSError, KeyError, pa.ArrowException) as error:
            line, columns = str(error).splitlines()[0], ", ".join(f"{field.name} ({field.type})" for field in READ)
            raise UserError(f"path={file}: cannot be read ({line}); give Parquet with {columns}") from error
        if pc.list_flatten(table["plan"]).null_count or any(column.null_count for column in table.columns):
            raise UserError(f"path={file}: has a row without a plan, or a step without text; leave such rows out")
        rows = table.to_pylist()
        yield from ((row["env"], row["task"], row["observation"], tuple(row["plan"])) for row in rows)


def called(settings: Mapping[str, Any]) -> str:
    """The display name of a teacher or judge: its model, or its class."""
    return str(settings.get("model") or settings["_target_"].rpartition(".")[2])


def _row(one: Candidate) -> dict[str, Any]:
    assert one.steps is not None
    assert one.scores is not None
    held = {"env": one.env, "task": one.task, "sample": one.sample, "observation": one.observation}
    return held | {"plan": list(one.steps)} | one.scores._asdict()


def _card(kept: Sequence[Candidate], splits: Sequence[str], who: Mapping[str, str], bar: Threshold, best: int) -> str:
    files = "\n".join(f"  - split: {split}\n    path: data/{split}.parquet" for split in splits)
    envs = ", ".join(sorted({one.env for one in kept})) or "nothing yet"
    tasks = len({(one.split, one.task) for one in kept})
    return CARD.format(files=files, envs=envs, kept=len(kept), tasks=tasks, rule=bar, best=best, **who)


def check(path: Path, settings: Mapping[str, Any]) -> None:
    """Raises UserError if a folder holds anything but a set of plans with these settings."""
    try:
        held = json.loads((path / "settings.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if path.is_dir() and any(child.name != ".lock" for child in path.iterdir()):
            raise UserError(f"out={path}: holds something else; name a new folder") from None
        return
    except ValueError as error:
        raise UserError(f"out={path}: its settings.json cannot be read; name a new folder") from error
    there, here = dict(_deciding(held)), dict(_deciding(settings))
    for key in dict.fromkeys([*there, *here]):
        if there.get(key) != here.get(key):
            what = f"{key} is {there.get(key)} there, {here.get(key)} here"
            raise UserError(f"out={path}: holds plans of other settings ({what}); name another folder")


def _deciding(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values on which plans and grades depend; without keys of endpoints that do not matter."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _deciding(value, f"{prefix}{key}.")
        elif key not in REACHING:
            yield f"{prefix}{key}", value


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; an incomplete last line is cut off."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]

"""The numbers of README: python experiments/headline.py FOLDER [WORLD ...] [seeds=0,1,2] [KEY=VALUE ...]

In each world and for each seed a sweep of two runs of `stage=adherence` from the shipped model: one, and its control, whose
rewards are permuted in each group. What a start and an end solve is measured on `test` (by the run itself), on `unseen`, and, but
for the controls, on `test` with two more turns. The runs lie in FOLDER, and what is there already is not played again. What each
solved is written to experiments/headline/WORLD-SEED-ARM.json, the table of all there are to experiments/headline/README.md, and
the part of it that README has is printed.
Nothing is chosen by what it says: that happens on `dev`. Keys and values, such as panel.tasks=8, are given to every run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pilotrl import PACKAGE
from pilotrl.analysis.contrasts import Contrast, gain, holm
from pilotrl.analysis.statistics import CONFIDENCE, MEASURES, per_task
from pilotrl.cli.evaluation_request import evaluated
from pilotrl.cli.teacher_tasks import environment
from pilotrl.runs.evaluation_set import followed_by_rule, measure, panel_of
from pilotrl.runs.setup import TrainSetup, silence_libraries
from pilotrl.store.records import read_episodes, to_record
from pilotrl.store.run_folder import write_whole
from pilotrl.types import Episode

OUT = Path(__file__).with_suffix("")
WORLDS = ("webshop", "alfworld", "iqa", "textcraft", "wordle", "babyai", "maze")
ARMS = ("trained", "control")
"""In the order of train.shuffle_rewards=false,true."""
PLANS = ("teacher's", "own")
TURNS = "two more turns"
ELSEWHERE = {"unseen": ["panel.split=unseen", "panel.greedy=false"], TURNS: ["panel.greedy=false"]}
"""Where ends are measured again, beside `test`."""
KINDS = {"trained": ("trained", "sampled"), "control": ("control", "sampled"), "trained, greedy": ("trained", "greedy")}
"""Columns: of which arm, and how it was played."""


def play(place: Path, world: str, seed: int, words: Sequence[str]) -> None:
    """All that is played in one world with one seed, on one core."""
    silence_libraries()
    sweep = place / f"{world}-{seed}"
    line = [sys.executable, "-m", "pilotrl", "-m", "stage=adherence", f"env={world}", *words, "trainer.threads=1"]
    line += [f"seed={seed}", "train.shuffle_rewards=false,true", f"hydra.sweep.dir={sweep}"]
    jobs = [sweep / str(number) for number in range(len(ARMS))]
    if not all((job / "summary.json").exists() for job in jobs):
        with open(place / f"{world}-{seed}.log", "a", encoding="utf-8") as log:
            subprocess.run(line, check=True, stdout=log, stderr=log)
    for arm, job in zip(ARMS, jobs, strict=True):
        summary = json.loads((job / "summary.json").read_text(encoding="utf-8"))
        found = {"test": success(job / "episodes.jsonl")}
        rules = {"test": summary["rule"]}
        for where, changed in ELSEWHERE.items():
            if arm == "control" and where == TURNS:
                continue
            more = [f"env.max_turns={_limit(job) + 2}"] if where == TURNS else []
            paths = {"before": place / f"{world}-{where}" / "start.jsonl", "after": job / f"{where}.jsonl"}
            for when, path in paths.items():
                _measure(job, job if when == "after" else None, [*changed, *more], path)
            found[where] = {
                f"{when}/{name}": has for when, path in paths.items() for name, has in success(path).items()
            }
            rules[where] = json.loads(paths["before"].with_name("rule.json").read_text(encoding="utf-8"))
        known = {key: summary[key] for key in ("git_revision", "seconds", "weights_sha256")}
        record = {"world": world, "seed": seed, "arm": arm, "words": list(words), **known, "rules": rules}
        write_whole(OUT / f"{world}-{seed}-{arm}.json", json.dumps(record | {"success": found}) + "\n")


def _limit(folder: Path) -> int:
    """Turns that an episode of a run has at most."""
    config, _ = evaluated([f"checkpoint={folder}"])[0]
    limit = environment(config, "test").max_turns
    assert limit is not None
    return limit


def _measure(run: Path, folder: Path | None, words: Sequence[str], out: Path) -> None:
    """What a run's end solves, or, without a folder, what it began with."""
    if out.exists():
        return
    config, _ = evaluated([f"checkpoint={run}", *words])[0]
    setup = TrainSetup.of(OmegaConf.merge(config, {"parent": folder and str(folder)}), run)  # type: ignore[arg-type]
    panel = panel_of(setup)
    with closing(setup.engine):
        found = measure(setup, panel, {}, lambda *_: None)
    lines = [json.dumps(to_record(one, protocol, 0)) for protocol, played in found.items() for one in played]
    out.parent.mkdir(exist_ok=True)
    if folder is None:
        write_whole(out.with_name("rule.json"), json.dumps(followed_by_rule(setup, panel)))
    write_whole(out, "\n".join(lines) + "\n")


def success(path: Path) -> dict[str, list[float]]:
    """Success of each task, in the order of their names, by phase such as `before/own plans, sampled`."""
    found: dict[str, list[Episode]] = {}
    for phase, episode in read_episodes(path, lambda line: not line.startswith('{"phase": "train"')):
        found.setdefault(phase, []).append(episode)
    solved = {phase: per_task(played, MEASURES["success"]) for phase, played in found.items()}
    return {phase: [round(of[task], 4) for task in sorted(of, key=str)] for phase, of in solved.items()}


Row = dict[str, Any]


def rows(records: Sequence[Row]) -> Iterator[Row]:
    """What a line of the table says, by world, plans and where."""
    for world, plans, where in product(WORLDS, PLANS, ("test", *ELSEWHERE)):
        row: Row = {"world": world, "plans": plans, "where": where, "changes": {}}
        for kind, (arm, how) in KINDS.items():
            of = [one for one in records if (one["world"], one["arm"]) == (world, arm) and where in one["success"]]
            before, after = (
                [
                    dict(enumerate(found))
                    for one in of
                    if (found := one["success"][where].get(f"{when}/{plans} plans, {how}"))
                ]
                for when in ("before", "after")
            )
            if before:
                row["changes"][kind] = _change(gain(before, after))  # type: ignore[arg-type]
            if before and kind == "trained":
                row["before"] = sum(before[0].values()) / len(before[0])
                row["rule"] = (of[0]["rules"][where] or {}).get("success") if plans == "teacher's" else None
                row["seeds"] = [one["seed"] for one in of]
        if row["changes"]:
            yield row


def _change(found: Contrast) -> dict[str, float | None]:
    """The mean over seeds, and its interval over tasks and, where there are several, seeds."""
    interval = found.over_seeds or found.over_tasks
    return {"mean": found.over_tasks["mean"], "low": interval["low"], "high": interval["high"], "p": found.p}


HEAD = ("environment", "plans", "where", "seeds", "before", *KINDS, "a rule")
"""Of the whole table."""
STARTED_IN = json.loads((PACKAGE / "models" / "weights" / "nano" / "config.json").read_text(encoding="utf-8"))[
    "started_in"
]
"""What the shipped model has seen."""


def corrected(found: list[Row]) -> list[Row]:
    """The same, and of every change whether it holds after Holm's correction for all of them."""
    changes = [change for row in found for change in row["changes"].values()]
    for change, p in zip(changes, holm([change["p"] for change in changes]), strict=True):
        change["holds"] = p < 1 - CONFIDENCE
    return found


def table(found: Sequence[Row]) -> str:
    """All worlds side by side; * where a change holds."""
    lines = [list(HEAD)]
    for row in found:
        told = [_told(row["changes"][kind]) if kind in row["changes"] else "" for kind in KINDS]
        rule = "" if row["rule"] is None else _percent(row["rule"])
        seeds = ", ".join(map(str, row["seeds"]))
        lines.append([row["world"], row["plans"], row["where"], seeds, _percent(row["before"]), *told, rule])
    return _markdown(lines)


def brief(found: Sequence[Row]) -> str:
    """What README shows: trained and control, test and unseen side by side."""
    held = {(row["world"], row["plans"], row["where"]): row for row in found}
    head = ["plans", "seeds", "test, before", "trained", "control", "unseen, before", "trained", "control"]
    lines = [["environment", *head]]
    for world, plans in dict.fromkeys((row["world"], row["plans"]) for row in found):
        test, unseen = (held[world, plans, where] for where in ("test", "unseen"))
        name = world if world in STARTED_IN else f"{world}, held out"
        lines.append([name, plans, ", ".join(map(str, test["seeds"]))])
        for row in (test, unseen):
            lines[-1] += [_percent(row["before"]), *(_told(row["changes"][arm]) for arm in ARMS)]
    return _markdown(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ["---"] * len(lines[0]), *lines[1:]))


def _told(change: dict[str, Any]) -> str:
    mean, low, high = (100 * change[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} ({low:.1f} to {high:.1f}){' *' * change['holds']}"


def page(records: Sequence[Row], found: Sequence[Row]) -> str:
    told = """# The default runs

Made by `python experiments/headline.py`, whose first lines say what is run and where it is measured. Success before training of
the shipped model, and its change in percentage points: the mean over seeds with 95 % intervals over tasks and seeds, with one
seed over tasks alone; * where it holds after Holm's correction for all changes of the table. *Control*: the same runs with
rewards permuted in each group. *Greedy*: each task once, without sampling. *A rule*: a few lines that see the teacher's current
step and what is listed, and no model. BabyAI and Maze are held out: the shipped model has never seen them. Where the second
table has `train.tasks=4`, steps have half as many tasks as by default, and evaluation sets 64 tasks, twice each, in place of
128, four times each: episodes there are long. Seconds include what else the machine did."""
    made = [
        f"| {one['world']} | {one['seed']} | {one['arm']} | `{one['git_revision'][:7]}` | {one['seconds']:.0f} |"
        f" {' '.join(one['words'])} | `{one['weights_sha256'][:12]}` |"
        for one in records
    ]
    head = [
        "| environment | seed | | revision | seconds, one core | other keys | weights |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([told, "", table(found), "", "The runs:", "", *head, *made, ""])


def main(place: Path, words: Sequence[str]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    worlds = [word for word in words if "=" not in word] or WORLDS
    seeds = next((word.removeprefix("seeds=") for word in words if word.startswith("seeds=")), "0,1,2").split(",")
    more = [word for word in words if "=" in word and not word.startswith("seeds=")]
    for folder in (place, OUT):
        folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("spawn")) as pool:
        for job in [
            pool.submit(play, place.resolve(), world, int(seed), more) for seed, world in product(seeds, worlds)
        ]:
            job.result()
    records = measured()
    found = corrected([*rows(records)])
    write_whole(OUT / "README.md", page(records, found))
    print(brief(found))


def measured() -> list[Row]:
    """What has been measured so far."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in OUT.glob("*.json")]
    return sorted(records, key=lambda one: (WORLDS.index(one["world"]), one["seed"], ARMS.index(one["arm"])))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""The numbers of README: python experiments/headline.py FOLDER WORLD ... [KEY=VALUE ...]

In each world one sweep of `stage=adherence` from the shipped model: three seeds, and three controls of the same seeds, whose
rewards are permuted in each group. What the start and each run's end solve is measured on `test` (by the run itself), on
`unseen`, and on `test` with two more turns. The runs lie in FOLDER, and what is there already is not played again; what came out
is written to experiments/headline/WORLD.json, and the table of all worlds to experiments/headline/README.md. Nothing is chosen by
what it says: that happens on `dev`. Keys and values, such as panel.tasks=8, are given to every run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pilotrl.analysis.contrasts import Contrast, Values, gain, holm
from pilotrl.analysis.statistics import CONFIDENCE, MEASURES, per_task
from pilotrl.cli.evaluation_request import evaluated
from pilotrl.runs.evaluation_set import followed_by_rule, measure, panel_of
from pilotrl.runs.setup import TrainSetup, silence_libraries
from pilotrl.store.records import read_episodes, to_record
from pilotrl.store.run_folder import write_whole
from pilotrl.types import Episode, Task

WORLDS = ("webshop", "alfworld", "iqa", "textcraft", "wordle", "babyai", "maze")
SEEDS = (0, 1, 2)
ARMS = ("trained", "control")
"""In the order of train.shuffle_rewards=false,true."""
PLANS = ("teacher's", "own")
TURNS = "two more turns"
GREEDY = "trained, greedy"
ELSEWHERE = {"unseen": ["panel.split=unseen", "panel.greedy=false"], TURNS: ["panel.greedy=false"]}
"""Where each end is measured again, beside `test`; with more turns without the controls."""


def job(place: Path, world: str, arm: str, seed: int) -> Path:
    return place / world / str(SEEDS.index(seed) * len(ARMS) + ARMS.index(arm))


def play(place: Path, world: str, words: Sequence[str]) -> None:
    """All that is played in one world, on one core."""
    silence_libraries()
    line = [sys.executable, "-m", "pilotrl", "-m", "stage=adherence", f"env={world}", *words, "trainer.threads=1"]
    line += [f"seed={','.join(map(str, SEEDS))}", "train.shuffle_rewards=false,true"]
    line += [f"hydra.sweep.dir={place / world}"]
    jobs = [job(place, world, arm, seed) for seed, arm in product(SEEDS, ARMS)]
    if not all((folder / "summary.json").exists() for folder in jobs):
        with open(place / f"{world}.log", "a", encoding="utf-8") as log:
            subprocess.run(line, check=True, stdout=log, stderr=log)
    for where, changed in ELSEWHERE.items():
        more = [f"env.max_turns={_limit(jobs[0]) + 2}"] if where == TURNS else []
        for folder in (None, *(jobs[:: len(ARMS)] if more else jobs)):
            _measure(jobs[0], folder, [*changed, *more], elsewhere(place, world, where, folder))


def _limit(folder: Path) -> int:
    """Turns that an episode of a run has at most."""
    config, _ = evaluated([f"checkpoint={folder}"])[0]
    limit = TrainSetup.of(config, folder).env("test").max_turns
    assert limit is not None
    return limit


def elsewhere(place: Path, world: str, name: str, folder: Path | None) -> Path:
    return place / world / name / f"{folder.name if folder else 'start'}.jsonl"


def _measure(run: Path, folder: Path | None, words: Sequence[str], out: Path) -> None:
    """What a run's end solves, or, without a folder, what all began with."""
    if out.exists():
        return
    config, _ = evaluated([f"checkpoint={run}", *words])[0]
    setup = TrainSetup.of(OmegaConf.merge(config, {"parent": folder and str(folder)}), run)  # type: ignore[arg-type]
    panel = panel_of(setup)
    with closing(setup.engine):
        found = measure(setup, panel, {}, lambda *_: None)
    lines = [json.dumps(to_record(one, protocol, 0)) for protocol, played in found.items() for one in played]
    out.parent.mkdir(exist_ok=True)
    write_whole(out, "\n".join(lines) + "\n")
    if folder is None:
        write_whole(out.with_name("rule.json"), json.dumps(followed_by_rule(setup, panel)))


@cache
def success(path: Path) -> dict[str, dict[Task, float]]:
    """Success of each task, by phase such as `before/own plans, sampled`."""
    found: dict[str, list[Episode]] = {}
    for phase, episode in read_episodes(path, lambda line: not line.startswith('{"phase": "train"')):
        found.setdefault(phase, []).append(episode)
    return {phase: per_task(of, MEASURES["success"]) for phase, of in found.items()}


def sides(place: Path, world: str, arm: str, where: str, protocol: str) -> tuple[Values, Values]:
    """Before and after, for each seed, of a protocol such as `own plans, sampled`."""
    folders = [job(place, world, arm, seed) for seed in SEEDS]
    if where == "test":
        runs = [success(folder / "episodes.jsonl") for folder in folders]
        return [run[f"before/{protocol}"] for run in runs], [run[f"after/{protocol}"] for run in runs]
    start = success(elsewhere(place, world, where, None))[protocol]
    return [start] * len(SEEDS), [success(elsewhere(place, world, where, folder))[protocol] for folder in folders]


def found_in(place: Path, world: str, words: Sequence[str]) -> dict[str, Any]:
    """What came out in one world: success before, and its changes, by plans and where."""
    rows = []
    for plans, where in product(PLANS, ("test", *ELSEWHERE)):
        asked = {"trained": ("trained", "sampled"), "control": ("control", "sampled"), GREEDY: ("trained", "greedy")}
        played = {"unseen": ("trained", "control"), TURNS: ("trained",)}.get(where, tuple(asked))
        row: dict[str, Any] = {"plans": plans, "where": where}
        for kind in played:
            before, after = sides(place, world, asked[kind][0], where, f"{plans} plans, {asked[kind][1]}")
            row.setdefault("before", sum(before[0].values()) / len(before[0]))
            row[kind] = _change(gain(before, after))
        rows.append(row | {"rule": _rule(place, world, where) if plans == "teacher's" else None})
    first = json.loads((job(place, world, "trained", SEEDS[0]) / "summary.json").read_text(encoding="utf-8"))
    known = {key: first[key] for key in ("git_revision", "seconds")}
    return {"world": world, **known, "words": list(words), "rows": rows}


def _change(found: Contrast) -> dict[str, float | None]:
    """The mean over seeds, and its interval over tasks and seeds."""
    interval = found.over_seeds or found.over_tasks
    return {"mean": found.over_tasks["mean"], "low": interval["low"], "high": interval["high"], "p": found.p}


def _rule(place: Path, world: str, where: str) -> float | None:
    """Success of a rule that sees the teacher's step in force alone."""
    if where == "test":
        summary = job(place, world, "trained", SEEDS[0]) / "summary.json"
        found = json.loads(summary.read_text(encoding="utf-8"))["rule"]
    else:
        found = json.loads((place / world / where / "rule.json").read_text(encoding="utf-8"))
    return found and found["success"]  # type: ignore[no-any-return]


HEAD = ("environment", "plans", "where", "before", "trained", "control", GREEDY, "a rule")


def table(results: Sequence[dict[str, Any]]) -> str:
    """All worlds side by side; * where a change holds after Holm's correction for all of them."""
    kinds = ("trained", "control", GREEDY)
    changes = [row[kind] for result in results for row in result["rows"] for kind in kinds if kind in row]
    for change, p in zip(changes, holm([change["p"] for change in changes]), strict=True):
        change["holds"] = p < 1 - CONFIDENCE
    lines = [list(HEAD), ["---"] * len(HEAD)]
    for result in results:
        for row in result["rows"]:
            told = [_told(row[kind]) if kind in row else "" for kind in kinds]
            rule = "" if row["rule"] is None else f"{100 * row['rule']:.1f} %"
            lines.append([result["world"], row["plans"], row["where"], f"{100 * row['before']:.1f} %", *told, rule])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _told(change: dict[str, Any]) -> str:
    mean, low, high = (100 * change[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} ({low:.1f} to {high:.1f}){' *' * change['holds']}"


def page(results: Sequence[dict[str, Any]]) -> str:
    told = f"""# The default runs

Made by `python experiments/headline.py`, whose first lines say what was run and where it was measured. Success before training
of the shipped model, and its change in percentage points: the mean over seeds {", ".join(map(str, SEEDS))} with 95 % intervals
over tasks and seeds; * where it holds after Holm's correction for all changes of the table. *Control*: the same runs with rewards
permuted in each group. *Greedy*: each task once, without sampling. *A rule*: a few lines that see the teacher's current step and
what is listed, and no model."""
    made = [
        f"* {result['world']}: revision {result['git_revision']}, {result['seconds']:.0f} seconds for seed 0 (loading and"
        f" evaluation included){', ' + ' '.join(result['words']) if result['words'] else ''}"
        for result in results
    ]
    return "\n".join([told, "", table(results), "", *made, ""])


def main(place: Path, worlds: Sequence[str], words: Sequence[str]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    place, out = place.resolve(), Path(__file__).with_suffix("")
    for folder in (place, out):
        folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:  # one for each of two cores
        for world, done in [(world, pool.submit(play, place, world, words)) for world in worlds]:
            done.result()
            write_whole(out / f"{world}.json", json.dumps(found_in(place, world, words), indent=1) + "\n")
    files = [file for world in WORLDS if (file := out / f"{world}.json").exists()]
    text = page([json.loads(file.read_text(encoding="utf-8")) for file in files])
    write_whole(out / "README.md", text)
    print(text)


if __name__ == "__main__":
    given = sys.argv[2:]
    main(
        Path(sys.argv[1]),
        [word for word in given if "=" not in word] or WORLDS,
        [word for word in given if "=" in word],
    )

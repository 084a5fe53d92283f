"""The numbers of README: python experiments/headline.py FOLDER [WORD ...]

Trains `stage=adherence` in every environment from the shipped model, three seeds and three controls of the same seeds, measures
each run on `test` and on `unseen`, and writes headline.md into FOLDER. What is there already is not run again. Nothing is chosen
by what it says: that happens on `dev`. Further words, such as panel.tasks=8, are given to every run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path

from pilotrl.analysis.contrasts import Contrast, gain
from pilotrl.analysis.statistics import MEASURES, per_task
from pilotrl.runs.describe import git_revision
from pilotrl.store.records import read_episodes
from pilotrl.types import Task

WORLDS = ("webshop", "alfworld", "iqa", "textcraft", "wordle", "babyai", "maze")
SEEDS = (0, 1, 2)
ARMS = {"trained": "false", "control": "true"}
"""Values of train.shuffle_rewards."""
PLANS = ("teacher's", "own")
Values = dict[Task, float]


def run(place: Path, world: str, seed: int, arm: str, words: Sequence[str]) -> None:
    """A run and its evaluation on unseen tasks, one core each."""
    folder = place / world / f"{arm}-{seed}"
    if not (folder / "summary.json").exists():
        shuffled = f"train.shuffle_rewards={ARMS[arm]}"
        _pilotrl("", "stage=adherence", f"env={world}", f"seed={seed}", shuffled, f"hydra.run.dir={folder}", *words)
    if not unseen(folder):
        _pilotrl(".evaluate", f"checkpoint={folder}", "panel.split=unseen", f"root={folder}/unseen")


def _pilotrl(command: str, *words: str) -> None:
    line = [sys.executable, "-m", f"pilotrl{command}", *words, "trainer.threads=1"]
    print(*line[1:], flush=True)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def unseen(folder: Path) -> Path | None:
    """Episodes of the evaluation on unseen tasks, if it is done."""
    return next((path.with_name("episodes.jsonl") for path in (folder / "unseen").glob("*/*/evaluation.json")), None)


@cache
def played(episodes: Path) -> dict[str, Values]:
    """Success of each task, by phase such as `before/own plans, sampled`."""
    found: dict[str, list[object]] = {}
    for phase, episode in read_episodes(episodes, lambda line: not line.startswith('{"phase": "train"')):
        found.setdefault(phase, []).append(episode)
    return {phase: per_task(of, MEASURES["success"]) for phase, of in found.items()}  # type: ignore[arg-type]


def rows(place: Path) -> Iterator[list[str]]:
    for world, plans, split in product(WORLDS, PLANS, ("test", "unseen")):
        found = {arm: [_episodes(place / world / f"{arm}-{seed}", split) for seed in SEEDS] for arm in ARMS}
        phase = f"{plans} plans, sampled"
        before = [played(path)[f"before/{phase}"] for path in found["trained"]]
        after = {arm: [played(path)[f"after/{phase}"] for path in paths] for arm, paths in found.items()}
        greedy = [
            played(path)[f"{when}/{plans} plans, greedy"] for when in ("before", "after") for path in found["trained"]
        ]
        start = sum(before[0].values()) / len(before[0])
        changes = [gain(before, after["trained"]), gain(before, after["control"])]
        yield [
            world,
            f"{plans} plans",
            split,
            f"{100 * start:.1f} %",
            *map(_told, changes),
            _told(gain(greedy[: len(SEEDS)], greedy[len(SEEDS) :])),
        ]


def _episodes(folder: Path, split: str) -> Path:
    path = folder / "episodes.jsonl" if split == "test" else unseen(folder)
    assert path is not None, folder
    return path


def _told(change: Contrast) -> str:
    """The mean over seeds, with its interval over tasks and seeds."""
    interval = change.over_seeds or change.over_tasks
    low, high = interval["low"], interval["high"]
    assert low is not None
    assert high is not None
    return f"{100 * (change.over_tasks['mean'] or 0):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


HEAD = ("environment", "", "split", "before", "trained", "control", "trained, greedy")


def main(place: Path, words: Sequence[str]) -> None:
    with ThreadPoolExecutor(2) as pool:  # one for each of two cores
        jobs = [pool.submit(run, place, *job, words) for job in product(WORLDS, SEEDS, ARMS)]
        for job in jobs:
            job.result()
    lines = [HEAD, ["---"] * len(HEAD), *rows(place)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told = f"Success, and its change in percentage points with 95 % intervals over tasks and seeds {SEEDS}."
    (place / "headline.md").write_text(f"{told} Revision {git_revision()}.\n\n{table}\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

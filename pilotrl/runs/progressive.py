"""The progressive curriculum: a chain of runs, each from the last one's weights, `python -m pilotrl stage=progressive`.

Every stage is an ordinary run in a subfolder of the chain's folder. That folder has the files of a run too: its curves are
those of the stages on one axis, its evaluations those before the first stage and after the last.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import _get_rank

from pilotrl.analysis.learning_curve import learning_curve
from pilotrl.analysis.terminal import Display
from pilotrl.cli import stage_chain, sweep_progress
from pilotrl.cli.preflight import as_it_was
from pilotrl.cli.stored_config import stored_config
from pilotrl.config.schema import Config
from pilotrl.runs import run as single
from pilotrl.runs.describe import averages, identity
from pilotrl.runs.evaluation_cache import recalled
from pilotrl.runs.evaluation_set import compared
from pilotrl.runs.step_metrics import run_info
from pilotrl.store.reading import read_bytes, read_json, read_lines
from pilotrl.store.records import levels_of
from pilotrl.store.run_folder import RunFolder, write_whole
from pilotrl.tracking.tracker import Tracker

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between checks of the other ranks whether the first one has started the next stage."""


def run(config: Config, path: Path) -> None:
    """Run the stages that are not finished, by the chain's folder, one after another.

    With several ranks the first one does all this; the others follow it from stage to stage, and play and train with it.
    """
    folder = RunFolder(path)
    if _get_rank():
        follow(config, folder)
        return
    info = replace(run_info(config, path), traces=0, model_mb=0.0)  # the stages have their own
    with folder.lock(), folder.complains(), Tracker(path, config.tracking.uri, info):
        stages = stage_chain.folders(folder, config)
        for number, (stage, job) in enumerate(zip(stages, stage_chain.jobs_of(folder), strict=True), start=1):
            settings = stage_chain.begin_stage(stage, job, stages[number - 2].path if number > 1 else None)
            if not stage.finished:
                print(f"stage {number} of {len(stages)}: {stage.path.name}, {settings.train.steps} steps", flush=True)
                as_it_was(stage)  # it has its own log
                single.run(settings, stage.path)
            write_whole(folder.metrics, "".join(map(_line, curves(stages[:number]))))
        results = finish(config, folder, stages)
        with Display(brief=bool(sweep_progress.here)) as display:
            display.finish(results, path, config.tracking.uri)


def follow(config: Config, folder: RunFolder) -> None:
    """What the other ranks do: go through each stage with the first rank, which starts it when the one before is finished."""
    for stage in stage_chain.folders(folder, config):
        while not stage.begun:
            time.sleep(POLL)
        if not stage.finished:
            single.run(stored_config(stage), stage.path)


def curves(stages: Sequence[RunFolder]) -> Iterator[dict[str, Any]]:
    """Lines of metrics.jsonl of all stages, with steps that count on."""
    done = 0
    for stage in stages:
        lines = list(read_lines(stage.metrics))
        yield from ({**line, "step": done + line["step"]} for line in lines)
        done += len(lines)


def finish(config: Config, folder: RunFolder, stages: Sequence[RunFolder]) -> dict[str, Any]:
    """Write the files of a run for the chain as a whole; returns the summary."""
    summaries = [stage.results() for stage in stages]
    results = summary(config, stages, summaries)
    write_whole(folder.episodes, "".join(map(_line, panels(stages, results["train"]["steps"]))))
    write_whole(folder / "panel.json", read_bytes(stages[-1] / "panel.json"))
    for stage, name in ((stages[-1], "policy"), (stages[0], "scratch")):
        if (stage / name).is_dir() and not (folder / name).exists():
            os.symlink(Path(stage.path.name) / name, folder / name)
    learning_curve(folder.metrics, folder / "learning_curve.png")
    write_whole(folder.summary, json.dumps(results, indent=2) + "\n")
    return results


def summary(config: Config, stages: Sequence[RunFolder], summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """summary.json of the chain: like a run's, with `stages`: the steps, parent and final weights of each."""
    first, last = recalled(stages[0], "before"), recalled(stages[-1], "after")
    after = {protocol: episodes for protocol, episodes in last.items() if protocol in first}
    kept = ("stage", "parent", "weights_sha256")
    return {
        **identity(config),
        "panel": summaries[-1]["panel"],
        **compared(first, after, averages(config), levels_of(read_json(stages[-1] / "panel.json"))),
        "train": {key: sum(one["train"][key] for one in summaries) for key in summaries[-1]["train"]},
        "drift": None,  # each stage measures it against its own initial weights
        "endpoints": dict(sum((Counter(one["endpoints"]) for one in summaries), Counter())),
        "weights_sha256": summaries[-1]["weights_sha256"],
        "seconds": sum(one["seconds"] for one in summaries),
        "stages": [
            {"folder": stage.path.name, "steps": one["train"]["steps"], **{key: one[key] for key in kept}}
            for stage, one in zip(stages, summaries, strict=True)
        ],
    }


def panels(stages: Sequence[RunFolder], steps: int) -> Iterator[dict[str, Any]]:
    """Lines of episodes.jsonl: the evaluations before the first stage and after the last, at step `steps`."""
    for stage, when, step in ((stages[0], "before", 0), (stages[-1], "after", steps)):
        wanted = f'{{"phase": "{when}/'
        for record in read_lines(stage.episodes, wanted=lambda line: line.startswith(wanted)):  # noqa: B023
            yield {**record, "step": step}


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"

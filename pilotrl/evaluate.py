"""Evaluate trained runs or API models on the evaluation set: `python -m pilotrl.evaluate checkpoint=RUN_FOLDER env=webshop`.

Several side by side: `checkpoint=[A,B] agents=[adaplan,react]`; an API model: `model=openai agents=[...]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pilotrl.analysis.terminal import Display
from pilotrl.cli.evaluation_request import Side, evaluated
from pilotrl.cli.exit_codes import ended
from pilotrl.cli.signals import at_once
from pilotrl.config.schema import Config
from pilotrl.runs.describe import averages, env_name, in_the_start
from pilotrl.runs.evaluation_set import OWN, EpisodesByProtocol, compared, measure, panel_of
from pilotrl.runs.setup import EvalSetup, TrainSetup, remote, silence_libraries
from pilotrl.store.records import to_record
from pilotrl.store.run_folder import RunFolder, write_whole
from pilotrl.types import Episode


def evaluate(config: Config, run: RunFolder, out: RunFolder, display: Display) -> dict[str, Any]:
    """Evaluate the weights that a run started from and those it ended with; returns the comparison."""
    trained = OmegaConf.merge(config, {"parent": str(run.path)})
    panel = panel_of(TrainSetup.of(config, run.path))
    measured: dict[str, EpisodesByProtocol] = {}
    with out.lines("episodes.jsonl") as lines:
        for when, settings in (("before", config), ("after", trained)):
            setup = TrainSetup.of(settings, run.path)  # type: ignore[arg-type]
            with closing(setup.engine):
                measured[when] = measure(setup, panel, {}, partial(_show, display, when))
            for protocol, episodes in measured[when].items():
                for episode in episodes:
                    lines.write(to_record(episode, f"{when}/{protocol}", 0))
    summary = {"checkpoint": str(run.path), "env": panel.called, "agent": config.agent.name, "panel": panel.summary()}
    summary["in_the_start"] = in_the_start(config)
    summary |= compared(measured["before"], measured["after"], averages(config), panel.by_level)
    write_whole(out / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    return summary


def side_by_side(sides: Sequence[Side], out: RunFolder, display: Display) -> dict[str, Any]:
    """Evaluate each side (model and paradigm) with its own plans; compare each with the first."""
    first, rows = EpisodesByProtocol(), list[dict[str, Any]]()
    with out.lines("episodes.jsonl") as lines:
        for number, (config, run) in enumerate(sides, start=1):
            setup = setup_of(config, run)
            panel, before = panel_of(setup), setup.spent()
            with closing(setup.engine):
                measured = measure(setup, panel, {}, partial(_show, display, str(number)))
            for protocol, episodes in measured.items():
                for episode in episodes:
                    lines.write(to_record(episode, f"{number}/{protocol}", 0))
            first = first or measured
            row: dict[str, Any] = {"side": number, "checkpoint": run and str(run.path), "model": config.model.name}
            row["agent"] = config.agent.name
            row |= {"panel": panel.summary()} | compute(measured[f"{OWN} plans, sampled"])
            row["broken_episodes"] = sum(e.outcome == "broken" for episodes in measured.values() for e in episodes)
            row["endpoints"] = {name: value - before.get(name, 0) for name, value in setup.spent().items()}
            rows.append(row | {"eval": compared(first, measured, averages(config), panel.by_level)["eval"]})
    summary = {"env": panel.called, "tasks": len(panel.tasks), "k": panel.samples, "sides": rows}
    write_whole(out / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _show(display: Display, side: str, protocol: str, done: int, total: int) -> None:
    display.panel(f"{side}: {protocol}", done, total)


def setup_of(config: Config, run: RunFolder | None) -> EvalSetup:
    """The parts to evaluate one side with its own plans: the weights of a run or, without one, an API model."""
    parent = run and str(run.path)
    own: Any = OmegaConf.merge(config, {"parent": parent, "stage": {"planner": "policy"}})
    return TrainSetup.of(own, run.path) if run else remote(own)


def compute(episodes: Sequence[Episode]) -> dict[str, int]:
    """Compute that an evaluation used: tokens sampled by the model, and steps of the environment."""
    return {"generated_tokens": sum(e.tokens for e in episodes), "env_steps": sum(len(e.turns) for e in episodes)}


def command(argv: Sequence[str]) -> None:
    """Run the command: `checkpoint=RUN_FOLDER`, and overrides of that run's configuration such as env, agent or panel."""
    silence_libraries()
    sides = evaluated(argv)
    config, run = sides[0]
    now = datetime.now()
    out = RunFolder(Path(config.root) / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}-evaluate-{env_name(config)}")
    out.check_writable()
    with out.complains("evaluate again"), out.lock(), Display() as display:
        found = evaluate(config, run, out, display) if run and len(sides) == 1 else side_by_side(sides, out, display)
        display.finish(found, out.path, None)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2, with a one-line message, for invalid arguments."""
    return ended(command, argv, __doc__)


if __name__ == "__main__":
    sys.exit(at_once(main()))

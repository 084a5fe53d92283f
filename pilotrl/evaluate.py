"""Play a panel: fixed tasks, fixed decoding, named planner. `python -m pilotrl.evaluate checkpoint=RUN_FOLDER env=webshop`;
several side by side: `checkpoint=[A,B] agents=[adaplan,react]`; a model behind an address: `model=openai agents=[...]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pilotrl.analysis.terminal import Display
from pilotrl.cli.evaluation_request import Side, evaluated
from pilotrl.cli.exit_codes import ended
from pilotrl.config.schema import Config
from pilotrl.runs.describe import averages, env_name
from pilotrl.runs.evaluation_set import OWN, EpisodesByProtocol, compared, measure, panel_of
from pilotrl.runs.setup import EvalSetup, TrainSetup, remote, silence_libraries
from pilotrl.store.records import to_record
from pilotrl.store.run_folder import RunFolder, write_whole
from pilotrl.types import Episode


def evaluate(config: Config, run: RunFolder, out: RunFolder, display: Display) -> dict[str, Any]:
    """Play a panel with the weights that a run started from and with those it ended with; returns what changed."""
    end = OmegaConf.merge(config, {"parent": str(run.path)})
    panel = panel_of(TrainSetup.of(config, run.path))
    played: dict[str, EpisodesByProtocol] = {}
    with out.lines("episodes.jsonl") as lines:
        for when, settings in (("before", config), ("after", end)):
            setup = TrainSetup.of(settings, run.path)  # type: ignore[arg-type]
            played[when] = measure(setup, panel, {}, partial(_show, display, when))
            for protocol, episodes in played[when].items():
                for episode in episodes:
                    lines.write(to_record(episode, f"{when}/{protocol}", 0))
    summary = {"checkpoint": str(run.path), "env": panel.env, "agent": config.agent.name, "panel": panel.summary()}
    summary |= compared(played["before"], played["after"], averages(config))
    write_whole(out / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    return summary


def side_by_side(sides: Sequence[Side], out: RunFolder, display: Display) -> dict[str, Any]:
    """Play the panel with each side under its paradigm, by its own plans; compare each with the first."""
    first, rows = EpisodesByProtocol(), list[dict[str, Any]]()
    with out.lines("episodes.jsonl") as lines:
        for number, (config, run) in enumerate(sides, start=1):
            setup = setup_of(config, run)
            panel, before = panel_of(setup), setup.spent()
            played = measure(setup, panel, {}, partial(_show, display, str(number)))
            for protocol, episodes in played.items():
                for episode in episodes:
                    lines.write(to_record(episode, f"{number}/{protocol}", 0))
            first = first or played
            row: dict[str, Any] = {"side": number, "checkpoint": run and str(run.path), "model": config.model.name}
            row["agent"] = config.agent.name
            row |= {"panel": panel.summary()} | compute(played[f"{OWN} plans, sampled"])
            row["broken_episodes"] = sum(e.outcome == "broken" for episodes in played.values() for e in episodes)
            row["endpoints"] = {name: value - before.get(name, 0) for name, value in setup.spent().items()}
            rows.append(row | {"eval": compared(first, played, averages(config))["eval"]})
    summary = {"env": panel.env, "tasks": len(panel.tasks), "k": panel.samples, "sides": rows}
    write_whole(out / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _show(display: Display, side: str, protocol: str, done: int, total: int) -> None:
    display.panel(f"{side}: {protocol}", done, total)


def setup_of(config: Config, run: RunFolder | None) -> EvalSetup:
    """A side with its own plans: the weights of a run or, where there is none, a model behind an address."""
    parent = run and str(run.path)
    own: Any = OmegaConf.merge(config, {"parent": parent, "stage": {"planner": "policy"}})
    return TrainSetup.of(own, run.path) if run else remote(own)


def compute(episodes: Sequence[Episode]) -> dict[str, int]:
    """What a panel took in all: tokens that the model sampled, and actions that the environment answered."""
    return {"generated_tokens": sum(e.tokens for e in episodes), "env_steps": sum(len(e.turns) for e in episodes)}


def command(argv: Sequence[str]) -> None:
    """`checkpoint=RUN_FOLDER` and overrides of that run's configuration beside it: env, agent, panel, ..."""
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
    """Exit code: 0, or 2 after one line about what the user got wrong."""
    return ended(command, argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())

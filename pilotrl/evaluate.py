"""Play a panel: fixed tasks, fixed decoding, named planner. `python -m pilotrl.evaluate checkpoint=RUN_FOLDER env=webshop`;
several side by side: `checkpoint=[A,B] agents=[adaplan,react]`; a model behind an address: `model=openai agents=[...]`."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pilotrl import prompts
from pilotrl.build import Arena, Bench, averages, env_name, plain, quiet, remote, worlds
from pilotrl.command import ended
from pilotrl.config import Config
from pilotrl.display import Display
from pilotrl.envs import MIXTURE, home
from pilotrl.folder import RunFolder, write_whole
from pilotrl.player import Player, Ticket
from pilotrl.preflight import Side, evaluated
from pilotrl.records import to_record
from pilotrl.statistics import panel_block
from pilotrl.tasks import drawn
from pilotrl.types import Episode, Task

OWN, TEACHER = "own", "teacher's"
Played = dict[str, list[Episode]]
"""Episodes by arm, such as `own plans, sampled`."""


@dataclass(frozen=True)
class Panel:
    """What an evaluation is about."""

    env: str
    split: str
    tasks: tuple[str, ...]
    samples: int
    temperature: float
    top_p: float
    protocol: dict[str, Any]
    """The environment's settings, the paradigm, the prompts: everything else about how it is played, whoever plays."""

    @property
    def sha256(self) -> str:
        text = json.dumps([self.env, self.split, self.tasks, self.samples, self.temperature, self.top_p, self.protocol])
        return hashlib.sha256(text.encode()).hexdigest()

    def tickets(self, player: Player, greedy: bool) -> list[Ticket]:
        decoding = replace(player, temperature=0.0 if greedy else self.temperature, top_p=1.0 if greedy else self.top_p)
        return [
            Ticket(Task(home(self.env, name), name, self.split, 0), group, sample, decoding)
            for group, name in enumerate(self.tasks)
            for sample in range(1 if greedy else self.samples)
        ]

    def record(self) -> dict[str, Any]:
        """panel.json: everything that the panel's hash is over."""
        return {**asdict(self), "sha256": self.sha256}

    def summary(self) -> dict[str, Any]:
        """The panel in summary.json."""
        name = f"{self.env}-{self.split}-{len(self.tasks)}x{self.samples}"
        return {"name": name, "sha256": self.sha256, "tasks": len(self.tasks), "samples_per_task": self.samples}


def panel_of(bench: Arena) -> Panel:
    """The panel of a configuration: the same tasks for every run."""
    config, env = bench.config, env_name(bench.config)
    return Panel(
        env=env,
        split=config.panel.split,
        tasks=drawn(env, bench.env(config.panel.split).tasks, config.panel.tasks),
        samples=config.panel.samples,
        temperature=config.panel.temperature,
        top_p=config.panel.top_p,
        protocol={
            "env": {**plain(config.env), "split": config.panel.split},
            "agent": plain(config.agent),
            "prompts": prompts.load(config.model.prompts, config.agent.plans),
            "tokens": [config.model.max_length, config.model.max_plan_tokens, config.model.max_action_tokens],
            **({"worlds": worlds(config)} if env == MIXTURE else {}),
        },
    )


def arms(bench: Arena) -> dict[str, tuple[Player, bool]]:
    """What a panel is played as: the policy's own plans and, where the stage has a teacher, the teacher's; sampled and greedy."""
    config = bench.config
    planners = [OWN, TEACHER] if config.stage.planner == "teacher" and config.agent.plans != "never" else [OWN]
    decodings = ["sampled", "greedy"] if config.panel.greedy else ["sampled"]
    return {
        f"{planner} plans, {decoding}": (bench.player(teacher=planner == TEACHER), decoding == "greedy")
        for planner in planners
        for decoding in decodings
    }


def measure(bench: Arena, panel: Panel, known: Played, on_done: Callable[[str, int, int], None]) -> Played:
    """All episodes of a panel, scored, by arm. Seeds follow from (panel, task, sample): the same before and after.

    known: arms that these weights have played already; they are only scored anew, since rewards differ by stage."""
    played: Played = {}
    for arm, (player, greedy) in arms(bench).items():
        tickets = panel.tickets(player, greedy)
        done = iter(range(1, len(tickets) + 1))
        key = ("panel", panel.sha256, arm)
        report = partial(_report, bench, on_done, arm, done, len(tickets))
        if arm in known:
            played[arm] = known[arm]
        else:
            played[arm] = bench.play(tickets, partial(bench.env, panel.split), bench.engine, key, report)
        bench.scoring(played[arm])
    return played


def _report(
    bench: Arena, on_done: Callable[[str, int, int], None], arm: str, done: Iterator[int], total: int, episode: Episode
) -> None:
    bench.scoring.begin(episode)
    on_done(arm, next(done), total)


def compared(before: Played, after: Played, averages: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The blocks `eval` and `eval_teacher` of summary.json; the latter is null where no teacher played."""

    def block(planner: str) -> dict[str, object] | None:
        sampled, greedy = f"{planner} plans, sampled", f"{planner} plans, greedy"
        if sampled not in after:
            return None
        return panel_block(before[sampled], after[sampled], before.get(greedy, ()), after.get(greedy, ()), averages)

    return {"eval": block(OWN), "eval_teacher": block(TEACHER)}


def evaluate(config: Config, run: RunFolder, out: RunFolder, display: Display) -> dict[str, Any]:
    """Play a panel with the weights that a run started from and with those it ended with; returns what changed."""
    end = OmegaConf.merge(config, {"parent": str(run.path)})
    panel = panel_of(Bench.of(config, run.path))
    played: dict[str, Played] = {}
    with out.lines("episodes.jsonl") as lines:
        for when, settings in (("before", config), ("after", end)):
            bench = Bench.of(settings, run.path)  # type: ignore[arg-type]
            played[when] = measure(bench, panel, {}, lambda arm, done, total: display.panel(f"{when}: {arm}", done, total))  # noqa: B023
            for arm, episodes in played[when].items():
                for episode in episodes:
                    lines.write(to_record(episode, f"{when}/{arm}", 0))
    summary = {"checkpoint": str(run.path), "env": panel.env, "agent": config.agent.name, "panel": panel.summary()}
    summary |= compared(played["before"], played["after"], averages(config))
    write_whole(out / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    return summary


def side_by_side(sides: Sequence[Side], out: RunFolder, display: Display) -> dict[str, Any]:
    """Play the panel with each side under its paradigm, by its own plans; compare each with the first."""
    first, rows = Played(), list[dict[str, Any]]()
    with out.lines("episodes.jsonl") as lines:
        for number, (config, run) in enumerate(sides, start=1):
            bench = seated(config, run)
            panel, before = panel_of(bench), bench.spent()
            played = measure(bench, panel, {}, lambda arm, done, total: display.panel(f"{number}: {arm}", done, total))  # noqa: B023
            for arm, episodes in played.items():
                for episode in episodes:
                    lines.write(to_record(episode, f"{number}/{arm}", 0))
            first = first or played
            row: dict[str, Any] = {"side": number, "checkpoint": run and str(run.path), "model": config.model.name}
            row["agent"] = config.agent.name
            row |= {"panel": panel.summary()} | compute(played[f"{OWN} plans, sampled"])
            row["broken_episodes"] = sum(e.outcome == "broken" for episodes in played.values() for e in episodes)
            row["endpoints"] = {name: value - before.get(name, 0) for name, value in bench.spent().items()}
            rows.append(row | {"eval": compared(first, played, averages(config))["eval"]})
    summary = {"env": panel.env, "tasks": len(panel.tasks), "k": panel.samples, "sides": rows}
    write_whole(out / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    return summary


def seated(config: Config, run: RunFolder | None) -> Arena:
    """A side with its own plans: the weights of a run or, where there is none, a model behind an address."""
    parent = run and str(run.path)
    own: Any = OmegaConf.merge(config, {"parent": parent, "stage": {"planner": "policy"}})
    return Bench.of(own, run.path) if run else remote(own)


def compute(episodes: Sequence[Episode]) -> dict[str, int]:
    """What a panel took in all: tokens that the model sampled, and actions that the environment answered."""
    return {"generated_tokens": sum(e.tokens for e in episodes), "env_steps": sum(len(e.turns) for e in episodes)}


def command(argv: Sequence[str]) -> None:
    """`checkpoint=RUN_FOLDER` and overrides of that run's configuration beside it: env, agent, panel, ..."""
    quiet()
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

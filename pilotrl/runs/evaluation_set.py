"""The evaluation set: fixed held-out tasks under fixed protocols, played before and after training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from pilotrl import prompts
from pilotrl.analysis.statistics import panel_block
from pilotrl.envs import MIXTURE, home
from pilotrl.rollout.agent import Player, Ticket
from pilotrl.rollout.schedule import drawn
from pilotrl.runs.describe import env_name, plain, worlds
from pilotrl.runs.setup import Arena
from pilotrl.types import Episode, Task

OWN = "own"


TEACHER = "teacher's"


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

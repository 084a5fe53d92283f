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
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.schedule import drawn
from pilotrl.runs.describe import as_dict, env_name, environments, prompt_set
from pilotrl.runs.setup import EvalSetup
from pilotrl.types import Episode, Task

OWN = "own"


TEACHER = "teacher's"


EpisodesByProtocol = dict[str, list[Episode]]
"""Episodes by protocol, such as `own plans, sampled`."""


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

    def specs(self, agent_spec: AgentSpec, greedy: bool) -> list[EpisodeSpec]:
        decoding = replace(
            agent_spec, temperature=0.0 if greedy else self.temperature, top_p=1.0 if greedy else self.top_p
        )
        return [
            EpisodeSpec(Task(home(self.env, name), name, self.split, 0), group, sample, decoding)
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


def panel_of(setup: EvalSetup) -> Panel:
    """The panel of a configuration: the same tasks for every run."""
    config, env = setup.config, env_name(setup.config)
    return Panel(
        env=env,
        split=config.panel.split,
        tasks=drawn(env, setup.env(config.panel.split).tasks, config.panel.tasks),
        samples=config.panel.samples,
        temperature=config.panel.temperature,
        top_p=config.panel.top_p,
        protocol={
            "env": {**as_dict(config.env), "split": config.panel.split},
            "agent": as_dict(config.agent),
            "prompts": prompts.load(prompt_set(config), config.agent.plans),
            "tokens": [config.model.max_length, config.model.max_plan_tokens, config.model.max_action_tokens],
            **({"worlds": environments(config)} if env == MIXTURE else {}),
        },
    )


def protocols(setup: EvalSetup) -> dict[str, tuple[AgentSpec, bool]]:
    """What a panel is played as: the policy's own plans and, where the stage has a teacher, the teacher's; sampled and greedy."""
    config = setup.config
    planners = [OWN, TEACHER] if config.stage.planner == "teacher" and config.agent.plans != "never" else [OWN]
    decodings = ["sampled", "greedy"] if config.panel.greedy else ["sampled"]
    return {
        f"{planner} plans, {decoding}": (setup.agent_spec(teacher_plans=planner == TEACHER), decoding == "greedy")
        for planner in planners
        for decoding in decodings
    }


def measure(
    setup: EvalSetup, panel: Panel, known: EpisodesByProtocol, on_done: Callable[[str, int, int], None]
) -> EpisodesByProtocol:
    """All episodes of a panel, scored, by protocol. Seeds follow from (panel, task, sample): the same before and after.

    known: protocols that these weights have played already; they are only scored anew, since rewards differ by stage."""
    played: EpisodesByProtocol = {}
    for protocol, (agent_spec, greedy) in protocols(setup).items():
        specs = panel.specs(agent_spec, greedy)
        done = iter(range(1, len(specs) + 1))
        key = ("panel", panel.sha256, protocol)
        report = partial(_report, setup, on_done, protocol, done, len(specs))
        if protocol in known:
            played[protocol] = known[protocol]
        else:
            played[protocol] = setup.run_episodes(specs, partial(setup.env, panel.split), setup.engine, key, report)
        setup.scoring(played[protocol])
    return played


def _report(
    setup: EvalSetup,
    on_done: Callable[[str, int, int], None],
    protocol: str,
    done: Iterator[int],
    total: int,
    episode: Episode,
) -> None:
    setup.scoring.begin(episode)
    on_done(protocol, next(done), total)


def compared(
    before: EpisodesByProtocol, after: EpisodesByProtocol, averages: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The blocks `eval` and `eval_teacher` of summary.json; the latter is null where no teacher played."""

    def block(planner: str) -> dict[str, object] | None:
        sampled, greedy = f"{planner} plans, sampled", f"{planner} plans, greedy"
        if sampled not in after:
            return None
        return panel_block(before[sampled], after[sampled], before.get(greedy, ()), after.get(greedy, ()), averages)

    return {"eval": block(OWN), "eval_teacher": block(TEACHER)}

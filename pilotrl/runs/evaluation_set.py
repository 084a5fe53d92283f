"""The evaluation set: fixed held-out tasks and protocols, run before and after training to measure the change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from pilotrl import envs, prompts
from pilotrl.analysis.statistics import panel_block, summarize
from pilotrl.cli.validate import prompt_set
from pilotrl.config.instantiate import NAME
from pilotrl.config.schema import Config
from pilotrl.envs import class_of, digest, home, level, name_of
from pilotrl.rewards.judge.grading import grade
from pilotrl.rollout import stopwatch
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec, lasting
from pilotrl.rollout.rules import RULES, by_rule, played
from pilotrl.rollout.task_schedule import drawn
from pilotrl.runs.describe import as_dict, env_name, environments, in_the_start, is_mixture
from pilotrl.runs.failures import check_played
from pilotrl.runs.setup import EvalSetup
from pilotrl.store.reading import read_json
from pilotrl.store.records import levels_of
from pilotrl.teacher import ExpertTeacher
from pilotrl.training import ranks
from pilotrl.types import Episode, Task, UserError, WorldError

OWN = "own"
TEACHER = "teacher's"
"""Whose plans a protocol follows; the first word of its name."""

CROWDED = 0.05
"""Share of episodes without room above which an evaluation warns."""

EpisodesByProtocol = dict[str, list[Episode]]
"""Episodes by protocol, such as `own plans, sampled`."""


@dataclass(frozen=True)
class Panel:
    """The evaluation set: tasks, samples a task, decoding and everything else that must be equal for a comparison."""

    env: str
    split: str
    tasks: tuple[str, ...]
    samples: int
    temperature: float
    top_p: float
    protocol: dict[str, Any]
    """The environment's settings, the paradigm, the prompts and token limits: all but the model and whose plans."""
    contents: tuple[str, ...]
    """A digest of what each task is: names alone would not tell that a generator or a file has changed."""
    called: str
    """The environment's name; `env` is what its tasks are filed under, which is alike for all mixtures."""
    levels: tuple[str, ...]
    """Of each task; empty texts where the environment has none. Neither is in the hash: they change nothing."""

    @property
    def sha256(self) -> str:
        decoding = [self.samples, self.temperature, self.top_p]
        text = json.dumps([self.env, self.split, self.tasks, *decoding, self.protocol, self.contents])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def by_level(self) -> dict[str, str]:
        """The level of each task that has one."""
        return levels_of({"tasks": self.tasks, "levels": self.levels})

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
        """Contents of panel.json: everything that is hashed, what is not, and the hash."""
        return {**asdict(self), "sha256": self.sha256}

    def check_same(self, path: Path) -> None:
        """Raises UserError where the panel.json of a run that is to go on is of other tasks, or of tasks that have changed."""
        held, now = read_json(path), json.loads(json.dumps(self.record()))
        there = dict(zip(held.get("tasks") or (), held.get("contents") or (), strict=False))
        contents = zip(self.tasks, self.contents, strict=True)
        changed = [task for task, what in contents if what and what != (there.get(task) or what)]
        if changed:
            what = f"{len(changed)} of {len(self.tasks)} tasks have other contents now, such as {changed[0]}"
        else:
            other = [key for key in now if key not in ("contents", "sha256") and held.get(key) != now[key]]
            if not other:
                return
            what = f"{' and '.join(other)} would be others now"
        raise UserError(f"{path}: {what}; before and after have to be measured on the same: start a new run")

    def summary(self) -> dict[str, Any]:
        """The evaluation set as in summary.json."""
        name = f"{self.called}-{self.split}-{len(self.tasks)}x{self.samples}"
        return {"name": name, "sha256": self.sha256, "tasks": len(self.tasks), "samples_per_task": self.samples}


def panel_of(setup: EvalSetup) -> Panel:
    """The evaluation set of a configuration: the same tasks in every run."""
    config, env, world = setup.config, name_of(setup.config.env), setup.env(setup.config.panel.split)
    tasks, agent = drawn(env, world.tasks, config.panel.tasks), as_dict(config.agent)
    first = {"replies": "line", "steps": "action"}  # left out, as of sets that were made before there were others
    agent = {key: value for key, value in agent.items() if value != first.get(key)}
    settings = {key: value for key, value in as_dict(config.env).items() if key != NAME} | {"split": config.panel.split}
    contents, levels = _contents(json.dumps(settings), tasks)
    return Panel(
        env=env,
        split=config.panel.split,
        tasks=tasks,
        samples=config.panel.samples,
        temperature=config.panel.temperature,
        top_p=config.panel.top_p,
        protocol={
            "env": settings,
            "agent": agent,
            "prompts": prompts.load(
                prompt_set(config.model.prompts),
                config.agent.plans,
                config.agent.shows,
                config.agent.replies,
                config.agent.steps,
            ),
            "tokens": [config.model.max_length, config.model.max_plan_tokens, config.model.max_action_tokens],
            **({"worlds": environments(config)} if is_mixture(config) else {}),
        },
        contents=contents,
        called=env_name(config),
        levels=levels,
    )


@cache
def _contents(settings: str, tasks: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Digests and levels of an environment's tasks. Kept: the jobs of a sweep and the sides of an evaluation ask for the same."""
    with envs.opened(json.loads(settings)) as world:
        return tuple(digest(world, task) for task in tasks), tuple(level(world, task) for task in tasks)


def remarks(config: Config, panel: Panel) -> list[str]:
    """What the evaluation set is, where that may not be what was meant; each is a line."""
    found = []
    if len(panel.tasks) < config.panel.tasks:
        found.append(
            f"panel.tasks={config.panel.tasks}: split {panel.split} has {len(panel.tasks)} tasks; all are played"
        )
    if panel.split == config.env["split"]:
        found.append(f"panel.split={panel.split}: is what is trained on; what it measures is no generalization")
    if known := in_the_start(config):
        found.append(
            f"env.holds_out={','.join(known)}: model={config.model.name} was trained there before it was shipped"
        )
    return found


def protocols(setup: EvalSetup) -> dict[str, tuple[AgentSpec, bool]]:
    """Protocols of the evaluation: the policy's own plans and, if the stage has a teacher, the teacher's; sampled and greedy."""
    config = setup.config
    planners = [OWN, TEACHER] if config.stage.planner == "teacher" and config.agent.plans != "never" else [OWN]
    decodings = ["sampled", "greedy"] if config.panel.greedy else ["sampled"]
    return {
        f"{planner} plans, {decoding}": (setup.agent_spec(teacher_plans=planner == TEACHER), decoding == "greedy")
        for planner in planners
        for decoding in decodings
    }


def measure(
    setup: EvalSetup,
    panel: Panel,
    known: EpisodesByProtocol,
    on_done: Callable[[str, int, int], None],
    version: int = 0,
) -> EpisodesByProtocol:
    """Run and score the evaluation set, by protocol; each rank does a share, and gets all. Seeds follow from (evaluation set,
    task, sample), before and after alike.

    version: of the weights, which are those that the run or the command started from, or have learned since.
    known: episodes by protocol that these weights have run already; they are only scored again, as rewards differ by stage."""
    measured: EpisodesByProtocol = {}
    config = setup.config
    for protocol, (agent_spec, greedy) in protocols(setup).items():
        specs = ranks.share(panel.specs(replace(agent_spec, version=version), greedy))
        done = iter(range(1, len(specs) + 1))
        key = ("panel", panel.sha256, protocol)
        report = partial(_report, setup, on_done, protocol, done, len(specs))
        if protocol in known:
            episodes = ranks.share(known[protocol])
        else:
            episodes = setup.run_episodes(specs, partial(setup.env, panel.split), setup.engine, key, report)
        stopwatch.phase("judge")(setup.scoring)(episodes)
        measured[protocol] = ranks.everyones(episodes)
        check_played(measured[protocol], len(measured[protocol]) - 1, f"evaluation, {protocol}")
        line = crowded(measured[protocol], config.model.max_length, config.agent.window)
        if line and ranks.number() == 0:
            print(f"evaluation of {protocol}: {line}")
    return measured


def crowded(episodes: Sequence[Episode], max_length: int, window: int | None) -> str | None:
    """A warning where more than one episode in twenty had no room left: what is measured then is the context too."""
    cut = sum(episode.ended_by == "context" for episode in episodes)
    if cut <= CROWDED * len(episodes):
        return None
    shown = "null, which shows all observations" if window is None else window
    return (
        f"{cut} of {len(episodes)} episodes had no room left; raise model.max_length={max_length}, or set agent.window "
        f"(now {shown}) to fewer"
    )


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


def followed_by_rule(setup: EvalSetup, panel: Panel) -> dict[str, float | None] | None:
    """The block `rule` of summary.json: success and adherence of a rule that follows the expert's plans on the same tasks.

    None where the expert does not plan, or in steps that last, in environments without a rule, and with an API model as judge,
    which would be paid."""
    homes, judges = {name: home(panel.env, name) for name in panel.tasks}, setup.scoring.judges
    kinds = {name: class_of(settings) for name, settings in environments(setup.config).items()}
    taught = any(protocol.startswith(TEACHER) for protocol in protocols(setup))
    if not (taught and isinstance(setup.teacher, ExpertTeacher) and RULES.keys() >= {*kinds.values()}):
        return None
    if setup.scoring.endpoints() or lasting(setup.config.agent.steps, setup.config.agent.plans):
        return None
    env, plans, episodes = setup.env(panel.split), setup.config.agent.plans, list[Episode]()
    for name, where in homes.items():
        with suppress(WorldError):
            episodes.append(played(env, Task(kinds[where], name, panel.split, 0), setup.teacher, by_rule, plans))
    for where in set(homes.values()):
        grade(judges[where], [episode for episode in episodes if homes[episode.task.id] == where], unselected=False)
    return {key: value for key, value in summarize(episodes).items() if key in ("success", "adherence")}


def compared(
    before: EpisodesByProtocol,
    after: EpisodesByProtocol,
    averages: Mapping[str, Sequence[str]],
    levels: Mapping[str, str],
) -> dict[str, Any]:
    """The blocks `eval` and `eval_teacher` of summary.json; the latter is null without a teacher."""

    def block(planner: str) -> dict[str, object] | None:
        sampled, greedy = f"{planner} plans, sampled", f"{planner} plans, greedy"
        if sampled not in after:
            return None
        pair = before.get(greedy, ()), after.get(greedy, ())
        return panel_block(before[sampled], after[sampled], *pair, averages, levels)

    return {"eval": block(OWN), "eval_teacher": block(TEACHER)}

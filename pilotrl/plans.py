"""Builds a plan dataset: a teacher writes plans for the tasks of a run, a judge grades them, the good ones are kept:

    python -m pilotrl.plans env=webshop teacher=openai teacher.temperature=1 judge=openai out=PLANS

Except `out=` and `plans.KEY=` the arguments are those of the run that will follow the plans: `stage=`, `train.steps=`, `seed=`
and `panel.tasks=` decide its tasks. docs/plans.md says more. Imports no torch.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.progress import Progress

from pilotrl import CONF, envs, teacher
from pilotrl.cli import stage_chain
from pilotrl.cli.compose import Job, composed_job, key_of, parse
from pilotrl.cli.exit_codes import ended
from pilotrl.cli.preflight import check_endpoints
from pilotrl.cli.signals import at_once
from pilotrl.cli.suggestions import nearest
from pilotrl.cli.teacher_tasks import environment, teacher_tasks
from pilotrl.cli.validate import check
from pilotrl.config.schema import Config, Plans
from pilotrl.envs import Env, home
from pilotrl.rewards import judge
from pilotrl.rewards.judge import Judge, PlanItem
from pilotrl.store.redact import without_secrets
from pilotrl.store.run_folder import RunFolder
from pilotrl.store.text import printable
from pilotrl.teacher import Teacher, plan_dataset
from pilotrl.teacher.plan_dataset import Candidate, Key, PlanSet, Threshold, called, distinct, sift
from pilotrl.types import Episode, Plan, Task, UserError, WorldError

if TYPE_CHECKING:
    from pilotrl.endpoint import Endpoint

AT_ONCE = 32
"""Tasks whose plans are written concurrently."""
SCORED = range(1, 6)
"""Possible grades."""


@dataclass
class PlanCollector:
    """The plan collector: has plans written and graded until every task has enough good ones."""

    environments: Mapping[str, Env]
    """Environments by split."""
    env: str
    teacher: Teacher
    judge: Judge
    held: PlanSet
    threshold: Threshold
    candidates: int
    rounds: int
    begun: dict[Key, tuple[Episode, Plan]] = field(default_factory=dict)
    """By task: an episode without turns, and the expert's plan, empty if there is no expert."""

    @property
    def best(self) -> int:
        """How many plans of a task are kept, at most."""
        return (self.candidates + 1) // 2

    def finish(self, keys: Sequence[Key]) -> None:
        """Write and grade plans for these tasks until each has enough that pass, or has used its rounds."""
        self.grade(keys)  # plans that an interrupted command left ungraded
        while due := {key: samples for key in keys if (samples := self.due(key))}:
            self.write(due)
            self.grade(list(due))

    def due(self, key: Key) -> list[int]:
        """Numbers of the samples to be written next: those missing in the current round; none if the task has enough."""
        written = self.held.written[key]
        for number in range(self.rounds):
            samples = range(number * self.candidates, (number + 1) * self.candidates)
            if missing := [sample for sample in samples if sample not in written]:
                return missing
            if self.enough([written[sample] for sample in range(samples.stop)]):
                break
        return []

    def enough(self, candidates: Sequence[Candidate]) -> bool:
        return len(sift(candidates, self.threshold, self.best)[0]) == self.best

    def write(self, due: Mapping[Key, Sequence[int]]) -> None:
        """Write these samples of tasks; all requests are sent before the first reply is awaited."""
        started = [(key, sample, steps) for key in due for sample, steps in self._start(key, due[key])]
        for (split, task), sample, steps in started:
            episode, _ = self.begun[split, task]
            plan = steps.result() if isinstance(steps, Future) else steps
            self.held.add(Candidate(episode.task.env, split, task, sample, episode.observation, plan))

    def _start(self, key: Key, samples: Sequence[int]) -> Iterator[tuple[int, Plan | Future[Plan | None]]]:
        episode, _ = self.look(key)
        writer, env = self.teacher, self.environments[key[0]]
        for sample in samples:
            if isinstance(writer, teacher.RemoteTeacher):
                yield sample, writer.plan(env, episode, (), sample)
            else:
                yield sample, writer.plan(env, episode, ())

    def look(self, key: Key) -> tuple[Episode, Plan]:
        """Reset the environment to a task; returns its empty episode, and the expert's plan, worded as the teacher's."""
        split, task = key
        env = self.environments[split]
        text, _ = env.reset(options={"task": task})
        episode = Episode(Task(home(self.env, task), task, split, 0), 0, 0, text)
        self.begun[key] = episode, teacher.reference(self.teacher, env)
        return self.begun[key]

    def grade(self, keys: Sequence[Key]) -> None:
        """Grade what has no grades yet; all requests are sent before the first reply is awaited."""
        candidates = [one for key in keys for one in distinct(self.held.of(key))]
        due = [(one, self.item(one)) for one in candidates if one.steps is not None and one.scores is None]
        if isinstance(self.judge, judge.RemoteJudge):
            self.judge.begin((), [item for _, item in due])
        for one, item in due:
            with suppress(WorldError):
                self.held.grade(one, self.judge.grade_plans([item])[0])

    @contextmanager
    def let_go(self) -> Iterator[None]:
        """At the end, or when interrupted, cancels the questions that no request was sent for yet."""
        try:
            yield
        finally:
            for end in (*asked_by(self.teacher), *asked_by(self.judge)):
                end.drop()

    def item(self, one: Candidate) -> PlanItem:
        """A plan as a judge sees it."""
        key = one.split, one.task
        episode, reference = self.begun.get(key) or self.look(key)
        return PlanItem(episode.observation, episode.observation, (), one.steps or (), reference)


def command(argv: Sequence[str]) -> None:
    """Parses the command line, writes the missing plans, and prints a summary. Raises UserError for invalid arguments."""
    jobs, options = ordered(argv)
    config = jobs[0].config
    tasks = {
        (split, name): None for job in jobs for split, names in teacher_tasks(job.config).items() for name in names
    }
    environments = {split: environment(config, split) for split in dict.fromkeys(split for split, _ in tasks)}
    settings = {node: _plain(getattr(config, node)) for node in ("env", "teacher", "judge")}
    try:
        writer = teacher.build(settings["teacher"])
        if isinstance(writer, teacher.ExpertTeacher):
            writer = teacher.expert_of(writer)  # a set holds words only, and judges grade them as they stand
    except UserError as error:
        raise UserError(f"teacher.{error}") from error
    grader = judge.build(settings["judge"], None)
    out, stored = Path(str(options.out)).expanduser(), without_secrets(settings)
    del stored["env"]["split"]
    plan_dataset.check(out, stored)
    _check_writable(out)
    threshold = Threshold(options.mean, options.correctness, options.others)
    sizes = (options.candidates, options.rounds) if isinstance(writer, teacher.RemoteTeacher) else (1, 1)
    with RunFolder(out).lock(), PlanSet(out, stored) as held, Progress(disable=not sys.stdout.isatty()) as bars:
        collector = PlanCollector(environments, envs.name_of(config.env), writer, grader, held, threshold, *sizes)
        keys, row = list(tasks), bars.add_task("tasks", total=len(tasks))
        with collector.let_go():
            for start in range(0, len(keys), AT_ONCE):
                collector.finish(keys[start : start + AT_ONCE])
                bars.advance(row, AT_ONCE)
        kept, reasons = held.export(threshold, collector.best)
    print(printable("\n".join(told_of(collector, keys, kept, reasons))))


def ordered(argv: Sequence[str]) -> tuple[list[Job], Plans]:
    """The parsed arguments: the runs that the plans are for, one or those of a chain, and this command's own options."""
    arguments = parse(argv)
    own = [line for line in arguments.overrides if _is_own(key_of(line))]
    job = composed_job(arguments, [line for line in arguments.overrides if line not in own])
    jobs = [
        link for link in stage_chain.stage_jobs(job.config, job.hydra) if link.config.stage.planner == "teacher"
    ] or [job]
    options = own_keys(own)
    for one in jobs:
        check(one.config)
    check_teacher(jobs[0].config, options)
    check_endpoints(jobs[0].config)
    return jobs, options


def own_keys(lines: Sequence[str]) -> Plans:
    """Values of `out=` and `plans.KEY=`, with the defaults of conf/plans.yaml."""
    held: Any = OmegaConf.merge(OmegaConf.structured(Plans), OmegaConf.load(CONF / "plans.yaml"))
    for line in lines:
        name, _, text = line.partition("=")
        key = name.removeprefix("plans.")
        if key not in held:
            raise UserError(
                f"{line}: there is no such key; the nearest is plans.{nearest(key, [str(k) for k in held])}"
            )
        try:
            held[key] = text
        except OmegaConfBaseException as error:
            raise UserError(f"{line}: {str(error).splitlines()[0]}; give a value of the right type") from error
    options = cast(Plans, held)
    if not (options.out or "").strip():
        raise UserError("out: has no value; name the folder of the set, out=PLANS")
    for key in ("candidates", "rounds"):
        if not 1 <= held[key] <= 1000:
            raise UserError(f"plans.{key}={held[key]}: must be at least 1, at most 1000")
    for key in ("mean", "correctness", "others"):
        if not SCORED[0] <= held[key] <= SCORED[-1]:
            raise UserError(f"plans.{key}={held[key]}: must be from {SCORED[0]} to {SCORED[-1]}")
    return options


def check_teacher(config: Config, asked: Plans) -> None:
    """Raises UserError for a teacher that writes no plans, or always the same one where several are wanted."""
    settings = config.teacher
    if config.agent.steps != "action":
        why = "a set holds plans that are followed as they are, with one step an action"
        raise UserError(f"agent.steps={config.agent.steps}: {why}; set agent.steps=action")
    if settings["_target_"].endswith(".FileTeacher"):
        raise UserError("teacher=file: has its plans already; use teacher=openai, or teacher=expert")
    if settings.get("temperature") == 0 and asked.candidates > 1:
        many = f"writes the same plan {asked.candidates} times"
        raise UserError(f"teacher.temperature=0: {many}; give teacher.temperature=1, or plans.candidates=1")


def told_of(collector: PlanCollector, keys: Sequence[Key], kept: int, reasons: Counter[str]) -> Iterator[str]:
    """Lines of the summary that the command prints."""
    written = sum(map(len, collector.held.written.values()))
    short = [key for key in keys if not collector.enough(collector.held.of(key))]
    yield f"{collector.held.path}: {written} plans written for {len(collector.held.written)} tasks, {kept} kept"
    for reason, count in reasons.most_common():
        yield f"  {count} not kept: {reason}"
    if short:
        none = sum(not sift(collector.held.of(key), collector.threshold, collector.best)[0] for key in short)
        yield f"  {len(short)} of {len(keys)} tasks have fewer than {collector.best}, of them {none} have none"
    users: dict[str, Teacher | Judge] = {"teacher": collector.teacher, "judge": collector.judge}
    for name, user in users.items():
        for end in asked_by(user):
            counts = ", ".join(f"{value:g} {what.replace('_', ' ')}" for what, value in end.spent().items() if value)
            yield f"  {name} {called(collector.held.settings[name])}: {counts}"


def asked_by(who: Teacher | Judge) -> Sequence[Endpoint]:
    """The endpoints that a teacher or a judge uses."""
    return who.endpoints() if isinstance(who, teacher.RemoteTeacher | judge.RemoteJudge) else ()


def _is_own(key: str) -> bool:
    return key == "out" or key.startswith("plans.")


def _plain(node: Any) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, node), resolve=True))


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".lock").touch()
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror}); name another folder") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 2, with a one-line message, for invalid arguments; 128 + its number for a signal."""
    return ended(command, argv, __doc__, then="the same line goes on where it was")


if __name__ == "__main__":
    sys.exit(at_once(main()))

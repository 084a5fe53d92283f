"""Preflight: every job of a command line is composed, validated and given a folder before anything is created.

Hydra writes `.hydra/` before it calls the job, lets `+key=value` past the types, and ends with a traceback and code 1.
So every job of a command is composed and checked here first, and its folder looked at. The text half: no torch.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from pilotrl import CONF, envs, prompts, teacher
from pilotrl.cli import slurm, stage_chain
from pilotrl.cli.compose import Job, composed_job, composed_jobs, flags_of, key_of, parse, resolved
from pilotrl.cli.machine import check_context, check_devices, check_tracking
from pilotrl.cli.open_nodes import locate
from pilotrl.cli.resume import check_resolvers, check_typed_again, resumed
from pilotrl.cli.stored_config import began_in, stored_config
from pilotrl.cli.sweep import Sweep
from pilotrl.cli.teacher_tasks import check_subgoals, environment, teacher_tasks
from pilotrl.cli.validate import check, check_shards, prompt_set
from pilotrl.config import search_path
from pilotrl.config.instantiate import NAME, make
from pilotrl.config.schema import Config
from pilotrl.rewards import judge
from pilotrl.store.reading import unreadable
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import NotHere, UserError


@dataclass(frozen=True)
class ParsedCommand:
    """What a command line asks for: go on in `folder`, which holds a run; where that is None, hand `argv` to Hydra, which
    then starts `sweep` where there is one."""

    argv: list[str]
    folder: RunFolder | None = None
    sweep: Sweep | None = None


def prepare(argv: Sequence[str], lacks: Callable[[str], None] | None = None) -> ParsedCommand:
    """Check a command line and every job that it would start. Creates nothing.

    lacks: is told what this machine lacks, where another may run the jobs; else that is wrong too.

    Folders of new runs are named here, so that those which are checked are those which are used.
    Raises UserError for the first thing that is wrong.
    """
    arguments = parse(argv)
    overrides: list[str] = arguments.overrides
    given = [word for word in argv if word not in overrides] + overrides
    if arguments.hydra_help or arguments.info or arguments.shell_completion:
        return ParsedCommand(given)
    if arguments.help or arguments.cfg:
        composed_job(arguments, overrides)
        return ParsedCommand(given)
    if any(key_of(line) == "resume" for line in overrides):
        flags = [word for word in argv if word not in (*overrides, *flags_of(arguments))]
        return ParsedCommand([], resumed(arguments, flags))
    jobs, multirun = composed_jobs(arguments)
    for job in jobs:
        for config in (job.config, *(link.config for link in stage_chain.stage_jobs(job.config, job.hydra))):
            checks: list[Callable[[Config], None]] = [check, partial(check_typed, job=job), check_learner, check_shards]
            checks += [check_algorithm, check_language_model, check_engine, check_endpoints]
            checks += [check_taught, check_context]
            for looks in checks:
                try:
                    looks(config)
                except NotHere as error:
                    if lacks is None:
                        raise
                    lacks(str(error))
    check_places(jobs[0], multirun)
    if multirun:
        sweep = check_sweep(jobs)
        return ParsedCommand([*given, *named(overrides, "hydra.sweep.dir", sweep.folder.path)], sweep=sweep)
    if (launcher := jobs[0].hydra.runtime.choices["hydra/launcher"]) != "basic":
        raise UserError(f"hydra/launcher={launcher}: starts the jobs of a sweep, even of a single one; add -m")
    folder = RunFolder(jobs[0].hydra.run.dir)
    if check_folder(folder, jobs[0]):
        return ParsedCommand([], folder)
    return ParsedCommand([*given, *named(overrides, "hydra.run.dir", folder.path)])


def check_places(job: Job, multirun: bool) -> None:
    """A run or a sweep gets a folder of its own: not none, where a shell variable is not set, and not the one that all is in."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    place = str(job.hydra.sweep.dir if multirun else job.hydra.run.dir)
    if not (place.strip() and place.isprintable()):
        raise UserError(
            f"{key}={place}: is no folder; give the path of one (empty is a shell variable that is not set)"
        )
    path = Path(place).absolute()
    if path == path.parent or (path in (Path.cwd(), *Path.cwd().parents) and not RunFolder(place).begun):
        raise UserError(f"{key}={place}: is the folder you are in, or above it; give one that a run has for itself")


def check_typed(config: Config, job: Job) -> None:
    """What is only asked of values that somebody typed, and of this machine only where it is the one that computes."""
    typed = {key_of(line) for line in job.hydra.overrides.task}
    minibatches, tasks = config.train.minibatches, config.train.tasks
    if "train.minibatches" in typed and minibatches > tasks:
        raise UserError(
            f"train.minibatches={minibatches}: each has whole tasks, and there are train.tasks={tasks}; give fewer"
        )
    if "tracking.uri" in typed:
        check_tracking(config.tracking.uri, config.root)
    name, chosen = config.algorithm.get("name"), job.hydra.runtime.choices.get("algorithm")
    if "algorithm.name" in typed and name != chosen and search_path.find("algorithm", str(name)):
        raise UserError(f"algorithm.name={name}: is what another algorithm is called; choose it with algorithm={name}")
    if str(job.hydra.runtime.choices["hydra/launcher"]) != "slurm":
        check_devices(config)


def check_learner(config: Config) -> None:
    """Weights that are elsewhere learn nothing."""
    if config.model.endpoint is not None:
        why = "is behind an address, and can be played but not trained"
        raise UserError(f"model={config.model.name}: {why}; give model=openai to python -m pilotrl.evaluate")


def check_algorithm(config: Config) -> None:
    """The algorithm can be made, and learns from what the stage plays. Loads torch."""
    from pilotrl.training import algorithms
    from pilotrl.training.algorithms.losses import Regularized

    settings = cast(dict[str, Any], OmegaConf.to_container(config.algorithm, resolve=True))
    if not isinstance(settings.get("name"), str):
        raise UserError("algorithm.name: has no value; say what summaries are to call it, name: NAME in its file")
    try:
        algorithm = algorithms.build(settings)
        algorithms.check(algorithm)
    except UserError as error:
        raise UserError(f"algorithm.{error}") from error
    name, stage, size = settings["name"], config.stage, config.train.group_size
    if isinstance(algorithm, Regularized) and algorithm.beta and config.model.lora.rank is None:
        why = (
            "its reference is the weights under adapters, and here all are trained; set model.lora.rank=16, or it to 0"
        )
        raise UserError(f"algorithm.beta={algorithm.beta}: {why}")
    if algorithm.demonstrations != (stage.actor == "expert"):
        who, use = ("the policy", "rewards") if stage.actor == "policy" else ("the expert", "demonstrations")
        how = f"does not learn from what {who} does (stage.actor={stage.actor}); choose one that learns from {use}"
        raise UserError(f"algorithm={name}: {how}")
    if (updates := config.train.minibatches) > 1 and not (algorithm.ratio or algorithm.demonstrations):
        why = "has no ratio for updates after the first of a step; set train.minibatches=1, or algorithm/loss=clip"
        raise UserError(f"train.minibatches={updates}: the loss of algorithm={name} {why}")
    if config.train.lag and not algorithm.ratio:
        other = "" if algorithm.demonstrations else ", or algorithm/loss=clip"
        why = f"takes no ratio to the weights of a step ago, which would play; set train.lag=0{other}"
        raise UserError(f"train.lag={config.train.lag}: the loss of algorithm={name} {why}")
    if size < algorithm.smallest_group:
        raise UserError(f"train.group_size={size}: must be at least {algorithm.smallest_group} for algorithm={name}")
    if algorithm.compares_plans:
        planless = {search_path.settings("agent", agent)["plans"] == "never" for agent in stage.agents}
        if planless != {True, False} or stage.planner == "teacher":
            why = "compares own plans to none; set stage=coordination stage.agents=[adaplan,naive]"
            raise UserError(f"algorithm={name}: {why}")
    counted = "plan_quality" in stage.terms and config.reward.weights["plan_quality"]
    if stage.train_unselected and not (algorithm.credits_candidates and counted):
        why = "credits a plan that was not followed; use an algorithm with algorithm.turn_credit=1, and the term plan_quality"
        raise UserError(f"stage.train_unselected=true: nothing {why}")


def check_language_model(config: Config) -> None:
    """What only the model's own files show; a shipped model and what a run has left are in order. Loads torch."""
    model, parent = config.model, config.parent
    strange = parent is None and model.scratch is None and not model.path.startswith("pilotrl:")
    if not strange and model.lora.rank is None:
        return
    from pilotrl.models import model_info

    if model.lora.rank is not None:
        source = str(Path(parent) / "policy") if parent else model.path
        model_info.check_targets(source, model.lora.targets)
        if model.lora.rank > (width := model_info.config_of(source).hidden_size):
            raise UserError(f"model.lora.rank={model.lora.rank}: must be at most {width}, the width of the model")
    if strange:
        template = cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, model.template), resolve=True))
        model_info.check_model(model.path, template, "system" in prompts.load(prompt_set(model.prompts)))


def check_engine(config: Config) -> None:
    """An engine with a copy of the weights can serve the model, and is installed. Loads torch."""
    model, plain = config.model, partial(OmegaConf.to_container, resolve=True)
    kind: Any = locate("engine._target_", config.engine["_target_"])
    if not hasattr(kind, "check"):
        return
    kind.check_installed()  # before the model is asked for: a machine may lack both
    from pilotrl.models import from_scratch, model_info

    if model.scratch is not None and config.parent is None:
        about = from_scratch.architecture(
            **from_scratch.sizes(cast(dict[str, Any], plain(model.scratch)), model.max_length)
        )
    else:
        about = model_info.config_of(str(Path(config.parent) / "policy") if config.parent else model.path)
    more = {"dtype": model.dtype, "lora_rank": model.lora.rank, "roles": model.roles, "max_length": model.max_length}
    kind.check(plain(config.engine), about, **more)


def check_endpoints(config: Config) -> None:
    """Who asks endpoints can: keys are in the environment, addresses answer, the environment's too. Raises UserError for the
    first that does not."""
    builders: dict[str, Callable[[dict[str, Any]], Any]]
    builders = {"judge": partial(judge.build, resolve=None), "teacher": teacher.build, "model.endpoint": make}
    for node, build in builders.items():
        if (held := OmegaConf.select(cast(DictConfig, config), node)) is None:
            continue
        settings = cast(dict[str, Any], OmegaConf.to_container(held, resolve=True))
        if not hasattr(locate(f"{node}._target_", settings["_target_"]), "endpoints"):
            continue
        try:
            for endpoint in build(settings).endpoints():
                endpoint.probe()
        except UserError as error:
            raise UserError(f"{node}.{error}") from error
    if issubclass(locate("env._target_", config.env["_target_"]), envs.Remote):
        world = cast(envs.Remote, environment(config, config.panel.split))
        try:
            world.probe()
        except UserError as error:
            raise UserError(f"env.{error}") from error


def check_taught(config: Config, trains: bool = True) -> None:
    """Who is asked for plans has them: the environment's expert is there, or of a teacher with plans for certain tasks, one for
    each that it will be asked about, in training and on the panel. The expert's wording is one that there is."""
    settings = cast(dict[str, Any], OmegaConf.to_container(config.teacher, resolve=True))
    kind, stage = locate("teacher._target_", settings["_target_"]), config.stage
    asked = (stage.planner, stage.actor) == ("teacher", "policy") and config.agent.plans != "never"
    if getattr(locate("env._target_", config.env["_target_"]), "expert", True) is None:
        name = envs.called(config.env)
        if stage.actor == "expert":
            raise UserError(f"stage.actor=expert: {name} ships no expert; choose a stage that the policy plays")
        if asked and kind is teacher.ExpertTeacher:
            raise UserError(f"stage.planner=teacher: {name} ships no expert; set stage.planner=policy")
    check_subgoals(config)
    if kind is not teacher.ExpertTeacher and not hasattr(kind, "covers"):
        return
    try:
        writer = teacher.build(settings)
        if isinstance(writer, teacher.Bounded) and (stage.planner, stage.actor) == ("teacher", "policy"):
            writer.covers(
                partial(environment, config), envs.name_of(config.env), teacher_tasks(config, trains) if asked else {}
            )
    except UserError as error:
        raise UserError(f"teacher.{error}") from error


def named(overrides: Sequence[str], key: str, folder: Path) -> list[str]:
    """The override that fixes a folder, unless the user gave one."""
    if any(key_of(line) == key for line in overrides):
        return []
    text = str(folder)
    if not re.fullmatch(r"[A-Za-z0-9_/.-]+/[A-Za-z0-9_.-]+", text):
        text = "'" + text.replace("'", "\\'").replace("${", "\\${") + "'"
    return [f"{key}={text}"]


def as_it_was(folder: RunFolder) -> None:
    """The working folder and the log of the command that began the run: paths in its configuration count from there."""
    path = folder.path.absolute()
    if (path / "pilotrl.log").is_dir():
        raise unreadable(path / "pilotrl.log", "is a folder", "remove it: the log is written there")
    logging = OmegaConf.load(CONF / "hydra" / "job_logging" / "pilotrl.yaml")
    names = {"job": {"name": "pilotrl"}, "runtime": {"output_dir": str(path)}, "job_logging": logging}
    configure_log(OmegaConf.create({"hydra": names}).hydra.job_logging)
    sys.path[:] = map(os.path.abspath, sys.path)  # what is imported later is not looked for in the folder that follows
    with contextlib.suppress(OSError, UserError):  # moved to another machine: stay here
        os.chdir(began_in(folder))


def check_folder(folder: RunFolder, job: Job) -> bool:
    """Whether the folder holds a run of this very configuration. Raises UserError when it cannot be used for it."""
    if not folder.begun:
        folder.check_writable()
        return False
    own = stored_config(folder)
    check_resolvers(folder, own, job.config)
    held = [
        own,
        *(link.config for link in stage_chain.jobs_of(folder, list(job.hydra.overrides.task))),
    ]
    asked = [job.config, *(link.config for link in stage_chain.stage_jobs(job.config, job.hydra))]
    for there, here in zip(held, asked, strict=False):  # of other chains the first differ
        if key := first_difference(there, here):
            raise UserError(f"{folder}: holds a run of another configuration ({key}); choose another folder")
    check_typed_again(folder, held, asked)
    if not folder.finished:
        folder.check_writable()
        folder.check_free()
    return True


def check_sweep(jobs: Sequence[Job]) -> Sweep:
    """The sweep that jobs make; the folder of each, and who is to start them, checked."""
    first = jobs[0]
    sweep = Sweep(RunFolder(first.hydra.sweep.dir), first.config.tracking.uri, first.config.tracking.experiment)
    for job in jobs:
        folder = RunFolder(sweep.folder / str(job.hydra.sweep.subdir))
        if folder.path in [other.path for other in sweep.jobs]:
            raise UserError(f"hydra.sweep.subdir={job.hydra.sweep.subdir}: is the folder of two jobs; make it differ")
        check_folder(folder, job)
        check_launcher(job, first)
        sweep.jobs[folder] = list(job.hydra.overrides.task)
    return sweep


def check_launcher(job: Job, first: Job) -> None:
    """One launcher starts all jobs, and there has to be such a place on the cluster."""
    settings, other = (
        cast(dict[str, Any], OmegaConf.to_container(j.hydra.launcher, resolve=True)) for j in (job, first)
    )
    for key in settings:
        if key not in slurm.OURS and settings[key] != other.get(key):
            raise UserError(
                f"hydra.launcher.{key}: is one for all jobs of a sweep, not {other.get(key)} and {settings[key]}"
            )
    if job is first and str(settings["_target_"]).endswith(".SlurmLauncher"):
        slurm.check(settings, job.config.trainer.devices, job.config.trainer.num_nodes)


def first_difference(there: Config, here: Config) -> str | None:
    """`train.steps is 100 there, 50 here`, or None where all is equal."""
    ours, theirs = resolved(here), resolved(there)
    name = f"env.{NAME}"
    theirs.setdefault(name, ours.get(name))  # where hydra.yaml is lost nobody knows it
    for key in [*ours, *theirs]:
        if ours.get(key) != theirs.get(key):
            return f"{key} is {theirs.get(key)} there, {ours.get(key)} here"
    return None

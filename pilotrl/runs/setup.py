"""Builds the parts of a run (model, engine, environments, judges, teacher) from the configuration, as plain arguments."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import torch
from omegaconf import OmegaConf
from transformers.utils import logging as transformers_logging

from pilotrl import CONF, engine, envs, prompts, teacher
from pilotrl.cli.machine import found
from pilotrl.cli.validate import prompt_set
from pilotrl.config import trust
from pilotrl.config.instantiate import make
from pilotrl.config.schema import Agent, Config
from pilotrl.engine import Engine, ForkableEngine
from pilotrl.engine.per_adapter import PerAdapterEngine
from pilotrl.envs import Env
from pilotrl.models import from_scratch, model_info, policy
from pilotrl.models.model_info import Memory
from pilotrl.models.policy import Policy, RoleModel
from pilotrl.prompts.chat import Chat, Format
from pilotrl.rewards import judge
from pilotrl.rewards.judge import Judge
from pilotrl.rollout.agent import AgentSpec, lasting
from pilotrl.rollout.curriculum import Pools, max_turns
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.rollout.workers import run_episodes_in_processes
from pilotrl.runs.describe import as_dict, environments
from pilotrl.store.reading import check_policy
from pilotrl.teacher import Teacher, expert_of
from pilotrl.training import algorithms
from pilotrl.training.ahead import Ahead
from pilotrl.training.algorithms import Algorithm
from pilotrl.training.data import Scoring
from pilotrl.types import Episode, Role


@dataclass
class EvalSetup:
    """The parts that an evaluation needs: engine, chat format, environments, teacher and scoring."""

    config: Config
    chat: Format
    engine: Engine
    scoring: Scoring
    teacher: Teacher

    def env(self, split: str) -> Env:
        """A new environment of a split."""
        return envs.build({**as_dict(self.config.env), "split": split})

    def agent_spec(self, *, teacher_plans: bool, demonstrates: bool = False, agent: Agent | None = None) -> AgentSpec:
        """The run's paradigm, or another, with the decoding of training. One candidate a plan, and own plans are graded."""
        config, agent, replies = self.config, agent or self.config.agent, self.config.agent.replies
        lasts = lasting(config.agent.steps, agent.plans)
        steps = "subgoal" if lasts else "action"
        texts = prompts.load(prompt_set(config.model.prompts), agent.plans, agent.shows, replies, steps)
        return AgentSpec(
            chat=self.chat,
            prompts=prompts.worded(texts, agent.plans, agent.thinks, replies),
            plans=agent.plans,
            thinks=agent.thinks,
            shows=agent.shows,
            context=agent.context,
            window=agent.window,
            replies=replies,
            teacher_plans=teacher_plans and agent.plans != "never",
            demonstrates=demonstrates,
            candidates=1,
            graded=not teacher_plans,
            detours=config.stage.detours,
            loose=config.stage.loose,
            own_actions=config.stage.own_actions,
            max_length=config.model.max_length,
            max_tokens=reply_tokens(config),
            adapters={role: None if config.model.roles == "shared" else role for role in get_args(Role)},
            temperature=config.train.temperature,
            top_p=1.0,
            version=0,
            lasts=lasts,
            teacher=expert_of(self.teacher) if demonstrates else self.teacher,
        )

    def run_episodes(self, *given: Any) -> list[Episode]:
        """Run episodes in this process; arguments as for `run_episodes`."""
        return run_episodes(*given)

    def spent(self) -> dict[str, float]:
        """Counts of API requests and tokens so far, by names such as `judge/requests`; empty without API models."""
        total: Counter[str] = Counter()
        teachers = self.teacher.endpoints() if isinstance(self.teacher, teacher.RemoteTeacher) else []
        for user, endpoints in {"judge": self.scoring.endpoints(), "teacher": teachers}.items():
            for endpoint in endpoints:
                total.update({f"{user}/{name}": count for name, count in endpoint.spent().items()})
        if isinstance(self.engine, engine.RemoteEngine):
            total.update({f"model/{name}": count for name, count in self.engine.spent().items()})
        return dict(total)

    def agent_specs(self) -> list[AgentSpec]:
        """The agents of training episodes: one of the run's paradigm, or one of each paradigm that the stage demonstrates."""
        stage = self.config.stage
        spec = partial(self.agent_spec, teacher_plans=stage.planner == "teacher", demonstrates=stage.actor == "expert")
        agent_specs = [spec(agent=paradigm(name)) for name in stage.agents] or [spec()]
        graded = stage.planner == "policy" and bool({"plan_quality", "correctness"} & {*stage.terms})
        return [replace(agent_spec, candidates=stage.candidates, graded=graded) for agent_spec in agent_specs]


@dataclass
class TrainSetup(EvalSetup):
    """The parts that training needs: besides those of an evaluation the policy, its tokenizer and the algorithm."""

    tokenizer: Any
    policy: Policy
    algorithm: Algorithm

    @classmethod
    def of(cls, config: Config, folder: Path) -> TrainSetup:
        """Load everything; a model from scratch is first created in the run folder."""
        torch.manual_seed(config.seed)
        source = model_path(config, folder)
        tokenizer = policy.load_tokenizer(source)
        chat = Chat(tokenizer, **as_dict(config.model.template))
        algorithm = algorithms.build(as_dict(config.algorithm))
        actor = Policy(load_model(config, source), algorithm.critic, getattr(torch, config.model.dtype))
        actor.set_trainable(config.stage.trains)
        engine = engine_of(actor, chat.end, as_dict(config.engine), config.model.roles, folder)
        return cls(
            config, chat, engine, scoring(config), teacher.build(as_dict(config.teacher)), tokenizer, actor, algorithm
        )

    @cached_property
    def pools(self) -> Pools:
        """Pass rates of tasks, used where the curriculum has pools."""
        curriculum = self.config.curriculum
        return Pools(curriculum.easy or 0.0, curriculum.hard or 0.0)

    @cached_property
    def ahead(self) -> Ahead:
        """Plays a step while the one before is learned from, where that is possible."""
        return Ahead()

    def close(self) -> None:
        """Nothing more will be played: also what is being played ends, and its environments are closed."""
        self.engine.close()
        self.ahead.close()

    def sampling(self) -> dict[str, Any]:
        """What decides on the episodes of a step, beside the schedule of tasks: keywords of `Rollouts`."""
        train, curriculum = self.config.train, self.config.curriculum
        horizon = partial(max_turns, list(curriculum.turns), train.steps)
        copied = train.lag and getattr(self.engine, "copies", False)
        ahead = self.ahead if copied and not envs.main_thread(self.env("train")) else None
        given = {"resample": train.resample, "lag": train.lag, "max_turns": horizon, "ahead": ahead}
        return given if curriculum.easy is None else {**given, "pools": self.pools}

    def run_episodes(self, *given: Any) -> list[Episode]:
        """Run episodes in as many processes as torch has threads, if the policy is on CPU and neither API connections nor
        sessions of environments would be forked, which a process that is killed cannot give back; else in this process. The
        device is looked up each time, since the trainer moves the policy to it.
        """
        forks = next(self.policy.parameters()).device.type == "cpu" and isinstance(self.engine, ForkableEngine)
        forks = forks and not isinstance(self.teacher, teacher.RemoteTeacher)
        forks = forks and not envs.concurrent(self.env("train"))
        in_processes = partial(run_episodes_in_processes, workers=torch.get_num_threads())
        return in_processes(*given) if forks and sys.platform == "linux" else run_episodes(*given)


def remote(config: Config) -> EvalSetup:
    """The parts of an evaluation of an API model."""
    from pilotrl.engine.openai import OpenAiEngine, Transcript

    chat = Transcript()
    api_engine = OpenAiEngine(make(as_dict(config.model.endpoint)), chat)
    return EvalSetup(config, chat, api_engine, scoring(config), teacher.build(as_dict(config.teacher)))


def silence_libraries() -> None:
    """Silence warnings and progress bars of libraries, and errors of logging itself, as on a full disk."""
    logging.raiseExceptions = False
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric", "bm25s"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "The `srun` command is available")
    warnings.filterwarnings("ignore", module="lightning")  # on DataLoader workers, its length, and optimizer steps


def paradigm(name: str) -> Agent:
    """The agent of `conf/agent/NAME.yaml`."""
    agent: Agent = OmegaConf.merge(OmegaConf.structured(Agent), OmegaConf.load(CONF / "agent" / f"{name}.yaml"))  # type: ignore[assignment]
    return agent


def scoring(config: Config) -> Scoring:
    return Scoring(
        judges={name: judge_of(config, str(settings["_target_"])) for name, settings in environments(config).items()},
        terms=list(config.stage.terms),
        weights=dict(config.reward.weights),
        overlong_buffer=config.reward.overlong_buffer,
        overlong_penalty=config.reward.overlong_penalty,
        own={str(name): make(as_dict(node)) for name, node in config.reward.terms.items()},
        trains={role: limit for role, limit in reply_tokens(config).items() if role in config.stage.trains},
        unselected=config.stage.train_unselected,
    )


def reply_tokens(config: Config) -> dict[Role, int]:
    """Maximum tokens of a reply, by role."""
    return {"planner": config.model.max_plan_tokens, "executor": config.model.max_action_tokens}


def judge_of(config: Config, env: str) -> Judge:
    """The judge for one environment, a class's dotted path, with the `resolve` function of its module if it has one."""
    return judge.build(as_dict(config.judge), trust.beside("env._target_", env, "resolve"))


def load_model(config: Config, source: str) -> Any:
    """The model of a run, with its adapters. All weights learn in float32, whatever they compute in."""
    model = config.model
    dtype = "float32" if model.lora.rank is None else model.dtype
    return policy.load_model(source, dtype, model.gradient_checkpointing, **as_dict(model.lora), roles=model.roles)


def engine_of(actor: Policy, end: int, settings: dict[str, Any], roles: str, folder: Path) -> Engine:
    """The engine or, if each role has its own weights or adapter, one for each; one with a copy of the weights is for both."""
    engine: Engine
    one = partial(make, {key: value for key, value in settings.items() if key != "name"}, end=end)
    if getattr(trust.find("engine._target_", settings["_target_"]), "copies", False):
        from lightning.fabric.utilities.rank_zero import _get_rank

        engine = one(model=actor, folder=folder, rank=_get_rank() or 0)
        return engine
    if roles == "shared":
        engine = one(model=actor.model)
        return engine
    return PerAdapterEngine({role: one(model=RoleModel(actor, role)) for role in get_args(Role)})


def model_path(config: Config, folder: Path) -> str:
    """Path of the weights that this run starts from. A model from scratch is created, unless the folder has it."""
    if config.parent is not None:
        check_policy(Path(config.parent) / "policy")
        return str(Path(config.parent) / "policy")
    scratch = config.model.scratch
    if scratch is None:
        return config.model.path
    target = folder / "scratch"
    if not (target / "config.json").is_file():
        corpus = from_scratch.texts(envs.build({**as_dict(config.env), "split": "train"}), scratch.texts)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:  # ranks may do this at once: the first one's is kept
            draft = Path(temporary) / target.name
            from_scratch.build(
                draft,
                [*corpus, *words(prompt_set(config.model.prompts))],
                seed=config.seed,
                copying=scratch.copying,
                **sizes(config),
            )
            try:
                os.rename(draft, target)
            except OSError:
                if not target.is_dir():
                    raise
    return str(target)


def sizes(config: Config) -> dict[str, int]:
    """Sizes of a model from scratch, as `architecture` takes them."""
    return from_scratch.sizes(as_dict(config.model.scratch), config.model.max_length)


def memory(config: Config, about: Any = None) -> Memory:
    """Upper estimate of the memory that a run needs on each device, before anything is loaded.

    about: transformers' configuration of the model, where its own is not to be had."""
    trainer, copied = config.trainer, as_dict(config.engine).get("memory_gb")
    model, fresh = config.model, config.model.scratch is not None and config.parent is None
    length = model.max_length
    return model_info.memory(
        about
        or (from_scratch.architecture(**sizes(config)) if fresh else model_info.config_of(model_path(config, Path()))),
        model.dtype,
        model.gradient_checkpointing,
        **as_dict(model.lora),
        row=max(config.train.micro_tokens, length),
        trained=1.0 if config.stage.observation_weight else 0.25,
        slots=config.engine.slots,
        length=length,
        sets=1 if model.roles == "shared" else 2,
        learning=1 if model.roles == "shared" else len(config.stage.trains),
        ranks=trainer.devices * trainer.num_nodes,
        sharded=trainer.strategy == "fsdp",
        memory_gb=copied,
        card=card(trainer.accelerator),
        lagged=bool(config.train.lag),
        cpu=found(trainer.accelerator) is None,
    )


def card(accelerator: str) -> float | None:
    """Bytes of memory of a GPU of this machine, if a run here would use one."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory)


def words(named: str | dict[str, Any]) -> Sequence[str]:
    """The prompts, as texts to learn a tokenizer from: repeated, so that their words become single tokens."""
    return [text.format(next=i, plan="", step="") for text in prompts.load(named).values() for i in range(1, 31)]

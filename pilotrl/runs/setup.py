"""From the configuration to the parts of a run. The configuration object stops here: parts take plain arguments."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import torch
from omegaconf import OmegaConf
from transformers.utils import logging as transformers_logging

from pilotrl import CONF, engine, envs, prompts, teacher
from pilotrl.config.instantiate import make
from pilotrl.config.schema import Agent, Config
from pilotrl.engine import Engine, ForkableEngine
from pilotrl.engine.per_adapter import PerAdapterEngine
from pilotrl.envs import Env
from pilotrl.models import from_scratch, model_info, policy
from pilotrl.models.model_info import Memory
from pilotrl.models.policy import Policy, RoleModel
from pilotrl.prompts.context import Chat, Format
from pilotrl.rewards import judge
from pilotrl.rewards.judge import Judge
from pilotrl.rollout.agent import AgentSpec
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.rollout.workers import run_episodes_in_processes
from pilotrl.runs.describe import as_dict, environments, prompt_set
from pilotrl.teacher import ExpertTeacher, Teacher
from pilotrl.training import algorithms
from pilotrl.training.algorithms import Algorithm
from pilotrl.training.data import Scoring
from pilotrl.types import Episode, Role


@dataclass
class EvalSetup:
    """What a panel needs: who plays, in which world, and who scores."""

    config: Config
    chat: Format
    engine: Engine
    scoring: Scoring
    teacher: Teacher

    def env(self, split: str) -> Env:
        """A fresh world of a split."""
        return envs.build({**as_dict(self.config.env), "split": split})

    def agent_spec(self, *, teacher_plans: bool, demonstrates: bool = False, agent: Agent | None = None) -> AgentSpec:
        """The run's paradigm, or another, with the decoding of training. One candidate a plan, and own plans are graded."""
        config, agent = self.config, agent or self.config.agent
        return AgentSpec(
            chat=self.chat,
            prompts=prompts.load(prompt_set(config), agent.plans),
            plans=agent.plans,
            thinks=agent.thinks,
            context=agent.context,
            window=agent.window,
            teacher_plans=teacher_plans and agent.plans != "never",
            demonstrates=demonstrates,
            candidates=1,
            graded=not teacher_plans,
            detours=config.stage.detours,
            max_length=config.model.max_length,
            max_tokens=reply_tokens(config),
            adapters={role: None if config.model.roles == "shared" else role for role in get_args(Role)},
            temperature=config.train.temperature,
            top_p=1.0,
            version=0,
            teacher=ExpertTeacher() if demonstrates else self.teacher,
        )

    def run_episodes(self, *given: Any) -> list[Episode]:
        """How episodes are played (`rollout.play`): here."""
        return run_episodes(*given)

    def spent(self) -> dict[str, float]:
        """What was asked of endpoints so far, by names such as `judge/requests`; nothing where there are none."""
        total: Counter[str] = Counter()
        teachers = self.teacher.endpoints() if isinstance(self.teacher, teacher.RemoteTeacher) else []
        for who, endpoints in {"judge": self.scoring.endpoints(), "teacher": teachers}.items():
            for endpoint in endpoints:
                total.update({f"{who}/{name}": count for name, count in endpoint.spent().items()})
        if isinstance(self.engine, engine.RemoteEngine):
            total.update({f"model/{name}": count for name, count in self.engine.spent().items()})
        return dict(total)

    def agent_specs(self) -> list[AgentSpec]:
        """Who plays in training: the run's paradigm, or each of those that the stage demonstrates."""
        stage = self.config.stage
        one = partial(self.agent_spec, teacher_plans=stage.planner == "teacher", demonstrates=stage.actor == "expert")
        agent_specs = [one(agent=paradigm(name)) for name in stage.agents] or [one()]
        graded = stage.planner == "policy" and "plan_quality" in stage.terms
        return [replace(agent_spec, candidates=stage.candidates, graded=graded) for agent_spec in agent_specs]


@dataclass
class TrainSetup(EvalSetup):
    """What a run needs: the policy that plays, and learns."""

    tokenizer: Any
    policy: Policy
    algorithm: Algorithm

    @classmethod
    def of(cls, config: Config, folder: Path) -> TrainSetup:
        """Load everything; a model from scratch is made in the run folder first."""
        torch.manual_seed(config.seed)
        source = model_path(config, folder)
        tokenizer = policy.load_tokenizer(source)
        chat = Chat(tokenizer, **as_dict(config.model.template))
        algorithm = algorithms.build(as_dict(config.algorithm))
        actor = Policy(load_model(config, source), algorithm.critic)
        actor.set_trainable(config.stage.trains)
        engine = engine_of(actor, chat.end, as_dict(config.engine), config.model.roles)
        return cls(
            config, chat, engine, scoring(config), teacher.build(as_dict(config.teacher)), tokenizer, actor, algorithm
        )

    def run_episodes(self, *given: Any) -> list[Episode]:
        """By as many processes as torch has threads, where the policy plays on CPU and nobody's connections would be forked.

        Where it plays is looked up each time: the trainer takes it to the accelerator.
        """
        here = next(self.policy.parameters()).device.type == "cpu" and isinstance(self.engine, ForkableEngine)
        here = here and not isinstance(self.teacher, teacher.RemoteTeacher)
        apart = partial(run_episodes_in_processes, workers=torch.get_num_threads())
        return apart(*given) if here and sys.platform == "linux" else run_episodes(*given)


def remote(config: Config) -> EvalSetup:
    """What a panel needs where a model behind an address plays."""
    from pilotrl.engine.openai import OpenAiEngine, Transcript

    chat = Transcript()
    agent_spec = OpenAiEngine(make(as_dict(config.model.endpoint)), chat)
    return EvalSetup(config, chat, agent_spec, scoring(config), teacher.build(as_dict(config.teacher)))


def silence_libraries() -> None:
    """Keep libraries from talking over the progress of the run, and a log on a full disk from being an error of its own."""
    logging.raiseExceptions = False
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric", "bm25s"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "The `srun` command is available")
    warnings.filterwarnings("ignore", module="lightning")  # workers for the data source, length of it, optimizer steps


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
    """How many tokens a reply of each role may have."""
    return {"planner": config.model.max_plan_tokens, "executor": config.model.max_action_tokens}


def judge_of(config: Config, env: str) -> Judge:
    """The judge, told how the actions of `env`, a class's dotted path, read in words where that needs telling."""
    world = import_module(env.rpartition(".")[0])
    return judge.build(as_dict(config.judge), getattr(world, "resolve", None))


def load_model(config: Config, source: str) -> Any:
    """The model of a run: its weights, and what of them learns."""
    model = config.model
    return policy.load_model(
        source, model.dtype, model.gradient_checkpointing, **as_dict(model.lora), roles=model.roles
    )


def engine_of(actor: Policy, end: int, settings: dict[str, Any], roles: str) -> Engine:
    """Who generates: one engine or, where each role has weights of its own, one for each. `end` closes a reply."""
    one = partial(make, {key: value for key, value in settings.items() if key != "name"}, end=end)
    if roles == "shared":
        engine: Engine = one(model=actor.model)
        return engine
    return PerAdapterEngine({role: one(model=RoleModel(actor, role)) for role in get_args(Role)})


def model_path(config: Config, folder: Path) -> str:
    """Where the weights that this run starts from lie."""
    if config.parent is not None:
        return str(Path(config.parent) / "policy")
    made = config.model.scratch
    if made is None:
        return config.model.path
    target = folder / "scratch"
    if not (target / "config.json").is_file():
        corpus = from_scratch.texts(envs.build({**as_dict(config.env), "split": "train"}), made.texts)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:  # ranks may do this at once: the first one counts
            draft = Path(place) / target.name
            from_scratch.build(
                draft,
                [*corpus, *words(prompt_set(config))],
                seed=config.seed,
                **sizes(config),
            )
            try:
                os.rename(draft, target)
            except OSError:
                if not target.is_dir():
                    raise
    return str(target)


def sizes(config: Config) -> dict[str, int]:
    """Of a model from scratch."""
    made = {name: size for name, size in as_dict(config.model.scratch).items() if name != "texts"}
    return made | {"positions": config.model.max_length}


def memory(config: Config) -> Memory:
    """What a run needs at most, known before anything is loaded."""
    model, fresh = config.model, config.model.scratch is not None and config.parent is None
    length = model.max_length
    return model_info.memory(
        from_scratch.architecture(**sizes(config)) if fresh else model_info.config_of(model_path(config, Path())),
        model.dtype,
        model.gradient_checkpointing,
        **as_dict(model.lora),
        row=max(config.train.micro_tokens, length),
        trained=1.0 if config.stage.observation_weight else 0.25,
        slots=config.engine.slots,
        length=length,
        sets=1 if model.roles == "shared" else 2,
        learning=1 if model.roles == "shared" else len(config.stage.trains),
    )


def words(named: str | dict[str, Any]) -> Sequence[str]:
    """The prompts, as text to learn a tokenizer from: often enough to get tokens of their own."""
    return [text.format(next=i, plan="", step="") for text in prompts.load(named).values() for i in range(1, 31)]

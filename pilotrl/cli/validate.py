"""Validates the values of one configuration against each other and against what they point to; every refusal is one line.

Types are checked by composition against `pilotrl.config.schema`. Ranges and known names are in `pilotrl.cli.ranges`. Here:
what depends on several values, and whether what a value points to exists. Nodes with `_target_` are in `open_nodes`; what an
algorithm can learn from is asked of it in `preflight`.
"""

from __future__ import annotations

import functools
import json
import re
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pilotrl import PACKAGE, prompts
from pilotrl.cli.open_nodes import OPEN, check_target, locate
from pilotrl.cli.ranges import rules
from pilotrl.cli.suggestions import nearest, show
from pilotrl.config import search_path, trust
from pilotrl.config.schema import Config
from pilotrl.rewards.terms import TERMS
from pilotrl.rollout.agent import lasting
from pilotrl.store.reading import check_policy, read_json, read_yaml, unreadable
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import UserError

MOST = 10**6
"""Of a weight: a mean of larger ones loses digits."""
HUB_NAME = r"\w[\w.-]*/\w[\w.-]*"


def check(config: Config) -> None:
    """Raises UserError for the first value that cannot be run. The configuration is typed and has no unknown keys."""
    check_values(config)
    check_weights(config)
    check_stage(config)
    check_curriculum(config)
    check_plans(config)
    check_lora(config)
    check_roles(config)
    if config.parent is not None:
        check_parent(config.parent, config.model.name)
    elif config.model.endpoint is None and config.model.scratch is None:
        check_model(config.model.path)
    check_classes(config)
    environment = cast(dict[str, Any], OmegaConf.to_container(config.env, resolve=True))
    check_env(json.dumps(environment, sort_keys=True))
    try:
        check_env(json.dumps(environment | {"split": config.panel.split}, sort_keys=True))
    except UserError as error:
        raise UserError(str(error).replace("env.split=", "panel.split=")) from error


def check_values(config: Config) -> None:
    """Every value is there and in its range."""
    for key in sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{key}: has no value; give it one on the command line, or choose an option that does")
    for name in config.reward.terms:
        if name not in config.reward.weights:
            raise UserError(f"reward.terms.{name}: has no weight; set reward.weights.{name}")
    for key, (holds, allowed) in rules(config).items():
        value = OmegaConf.select(cast(DictConfig, config), key)
        if value is not None and not holds(value):
            raise UserError(f"{key}={show(value)}: must be {allowed}")


def check_classes(config: Config) -> None:
    """Every class that is named, at any depth, is trusted, and those that a run makes fit their nodes. Makes none of them."""
    for key, target in trust.targets(OmegaConf.to_container(cast(DictConfig, config), resolve=True)):
        locate(key, target)
    for node in OPEN:
        check_target(node, getattr(config, node))
    for name, settings in config.reward.terms.items():
        check_target(f"reward.terms.{name}", settings)
    if config.model.endpoint is not None:
        check_target("model.endpoint", config.model.endpoint)
    check_prompts(config.model.prompts)


def check_weights(config: Config) -> None:
    """Every weight is of a term, and every term that counts has one."""
    weights, own = config.reward.weights, config.reward.terms
    known = [*TERMS, *map(str, own)]
    for name, weight in weights.items():
        if name not in known:
            raise UserError(
                f"reward.weights.{name}={weight}: there is no such term; the nearest is {nearest(name, known)}"
            )
        if not 0 <= weight <= MOST:
            raise UserError(f"reward.weights.{name}={weight}: must be at least 0, at most {MOST}")
    for name in own:
        if name in TERMS:
            raise UserError(f"reward.terms.{name}: is a term of ours; give yours another name")
    for term in (term for term in config.stage.terms if term in known and term not in weights):
        raise UserError(f"stage.terms={show(config.stage.terms)}: {term} has no weight; set reward.weights.{term}")
    if not any(weights[term] for term in config.stage.terms):
        raise UserError(f"stage.terms={show(config.stage.terms)}: all have weight 0 in reward.weights; raise one")


def check_prompts(named: Any) -> None:
    """The set of prompts is there and whole."""
    path = search_path.find("prompts", named) if isinstance(named, str) else None
    node = OmegaConf.load(path) if path else named
    if not isinstance(node, str):
        check_target("model.prompts", cast(DictConfig, node))
    prompts.load(prompt_set(named))


def prompt_set(named: Any) -> str | dict[str, Any]:
    """What `model.prompts` says: the name of a set, or the settings of a class."""
    return named if isinstance(named, str) else cast(dict[str, Any], OmegaConf.to_container(named, resolve=True))


def check_plans(config: Config) -> None:
    """Who shows plans needs some; who trains or counts them, some that the policy writes. In an evaluation nobody trains."""
    stage, agent = config.stage, config.agent
    if agent.plans == "never" and agent.shows != "none":
        raise UserError(
            f"agent.shows={agent.shows}: with agent.plans=never there is no plan to show; set agent.shows=none"
        )
    if agent.steps == "subgoal" and not lasting(agent.steps, agent.plans):
        why = "there is no plan" if agent.plans == "never" else "nobody says when a step is done"
        raise UserError(f"agent.steps=subgoal: with agent.plans={agent.plans} {why}; set agent.steps=action")
    if stage.actor == "expert" or (stage.planner == "policy" and config.agent.plans != "never"):
        return
    no_plans = "agent.plans=never" if config.agent.plans == "never" else f"stage.planner={stage.planner}"
    if {"plan_quality", "correctness"} & {*stage.terms}:
        raise UserError(
            f"stage.terms={show(stage.terms)}: with {no_plans} the policy writes no plan that could be graded"
        )
    if "executor" not in stage.trains:
        raise UserError(f"stage.trains={show(stage.trains)}: with {no_plans} the policy writes no plan to learn from")


def check_stage(config: Config) -> None:
    """A loss on held-out demonstrations needs demonstrations; groups whose rewards can differ, several episodes played."""
    train, size = config.train, config.train.group_size
    if train.resample and (config.stage.actor == "expert" or size < 2):
        why = f"train.group_size={size}" if size < 2 else "stage.actor=expert"
        raise UserError(f"train.resample={train.resample}: with {why} no group has rewards that differ; set it to 0")
    if config.stage.own_actions and config.stage.observation_weight:
        weight, share = config.stage.observation_weight, config.stage.own_actions
        why = f"with stage.own_actions={share} the policy's own words would be learned as observations"
        raise UserError(f"stage.observation_weight={weight}: {why}; set it to 0")
    if config.stage.actor == "policy" and config.train.validate_every:
        often = config.train.validate_every
        raise UserError(
            f"train.validate_every={often}: is for demonstrations (stage.actor=expert); set it to 0, evaluations measure"
        )


def check_curriculum(config: Config) -> None:
    """A curriculum is for what the policy plays; pools have two shares, which leave something to the others."""
    curriculum, stage = config.curriculum, config.stage
    easy, hard = curriculum.easy, curriculum.hard
    if (easy is None) != (hard is None) or (easy or 0) + (hard or 0) > 1:
        why = "and curriculum.easy are two shares of at most 1 together, or both null"
        raise UserError(f"curriculum.hard={show(hard)}: it {why}, which is {show(easy)}; set both")
    if stage.actor == "expert" and (curriculum.turns or easy is not None):
        raise UserError(
            f"curriculum={curriculum.name}: is for episodes that the policy plays, and here stage.actor=expert; set it to none"
        )
    if len(curriculum.turns) >= config.train.steps:
        turns = show(curriculum.turns)
        raise UserError(
            f"curriculum.turns={turns}: has a part of training for each number, and train.steps="
            f"{config.train.steps}; give fewer"
        )


def check_lora(config: Config) -> None:
    """Adapters need weights to sit on, and small updates need a dtype that holds them; a parent's adapters stay as they are."""
    model, parent = config.model, config.parent
    if model.lora.rank is None and model.dtype == "bfloat16" and config.trainer.strategy != "fsdp":
        raise UserError(
            "model.dtype=bfloat16: rounds updates of all weights away; use float32, or model.lora.rank=16, or"
            " trainer.strategy=fsdp, which computes in bfloat16 and learns in float32"
        )
    if model.lora.rank is not None and model.scratch is not None and parent is None:
        raise UserError(
            f"model.lora.rank={model.lora.rank}: a model from nothing has to learn all its weights; leave it null"
        )
    policy = Path(parent or "") / "policy"
    adapter = next(policy.glob("**/adapter_config.json"), None)
    if model.lora.rank is not None and parent is not None and adapter is not None:
        theirs = read_json(adapter)
        try:
            held = {"rank": theirs["r"], "alpha": theirs["lora_alpha"], "targets": sorted(theirs["target_modules"])}
        except (LookupError, TypeError) as error:
            raise unreadable(adapter, f"is not as peft writes it ({error})") from error
        ours = {"rank": model.lora.rank, "alpha": model.lora.alpha, "targets": sorted(model.lora.targets)}
        if key := next((key for key in held if held[key] != ours[key]), None):
            raise UserError(f"model.lora.{key}={ours[key]}: the adapters of parent={parent} have {held[key]}; use that")


def check_shards(config: Config) -> None:
    """What learns can be cut into shards, who plays has a copy of the weights, and every rank has an episode to play, since
    copies are renewed by all at once."""
    model, train = config.model, config.train
    if config.trainer.strategy != "fsdp":
        return
    if model.lora.rank is not None:
        few = f"learns all weights, and model.lora.rank={model.lora.rank} few; use ddp, or model.lora.rank=null"
        raise UserError(f"trainer.strategy=fsdp: {few}")
    if model.roles != "shared":
        raise UserError(f"trainer.strategy=fsdp: has one model, and model.roles={model.roles} more than that; use ddp")
    if train.muon_lr is not None:
        why = "Muon needs whole matrices, and ranks have parts of them; use ddp, or train.muon_lr=null"
        raise UserError(f"trainer.strategy=fsdp: {why}")
    if train.lag:
        why = f"does not keep the weights of a step ago, as train.lag={train.lag} asks; use ddp, or train.lag=0"
        raise UserError(f"trainer.strategy=fsdp: {why}")
    if config.trainer.accelerator in ("mps", "tpu"):
        raise UserError(
            f"trainer.strategy=fsdp: is for gpu and cpu, not trainer.accelerator={config.trainer.accelerator}"
        )
    if not getattr(locate("engine._target_", config.engine["_target_"]), "copies", False):
        why = "plays with the weights of its own process, which has a part of each; use engine=vllm, or ddp"
        raise UserError(f"trainer.strategy=fsdp: engine={config.engine.get('name')} {why}")
    count = config.trainer.devices * config.trainer.num_nodes
    played = {"train.tasks * train.group_size": train.tasks * train.group_size, "panel.tasks": config.panel.tasks}
    played |= {"drift.tasks": config.drift.tasks} if config.drift.every else {}
    for key, episodes in played.items():
        if episodes < count:
            raise UserError(
                f"{key}={episodes}: each of {count} ranks plays, with trainer.strategy=fsdp; give {count} or more"
            )


def check_roles(config: Config) -> None:
    """Where each role has its own, that is an adapter or a model; and what a parent's roles share can become theirs, not back."""
    model, parent = config.model, config.parent
    if model.roles == "separate" and model.lora.rank is None:
        raise UserError("model.roles=separate: is an adapter for each role; give them a rank, model.lora.rank=8")
    if model.roles == "isolated" and model.lora.rank is not None:
        raise UserError(
            f"model.lora.rank={model.lora.rank}: isolated roles are two whole models; set model.lora.rank=null"
        )
    if parent is None or not RunFolder(parent).begun:
        return
    theirs = model_of(RunFolder(parent)).get("roles", "shared")
    if theirs not in ("shared", model.roles) and (theirs, model.roles) != ("separate", "isolated"):
        raise UserError(
            f"model.roles={model.roles}: parent={parent} has roles that are {theirs}; set model.roles={theirs}"
        )


def check_model(path: str) -> None:
    """A shipped model and a local folder exist; a name on a hub, `org/name`, or in a wheel is taken as it is."""
    shipped = path.removeprefix("pilotrl:")
    if shipped != path:
        names = sorted(p.name for p in (PACKAGE / "models" / "weights").glob("*") if p.is_dir())
        if shipped not in names:
            raise UserError(f"model.path={path}: no such model is shipped; there are {', '.join(names) or 'none'}")
    elif not (Path(path) / "config.json").is_file() and (
        Path(path).exists() or not (path.startswith("wheel:") or re.fullmatch(HUB_NAME, path))
    ):
        raise UserError(f"model.path={path}: is no folder with a config.json, nor a name on a hub (org/name)")


def check_parent(parent: str, model: str) -> None:
    folder = RunFolder(parent)
    if not folder.begun:
        raise UserError(f"parent={parent}: is not a run folder; give one that holds .hydra/config.yaml and policy/")
    if not folder.policy.is_dir():
        raise UserError(f"parent={parent}: has no policy/ yet; finish that run with resume={parent}")
    theirs = model_of(folder).get("name")
    if theirs != model:
        raise UserError(f"parent={parent}: holds a checkpoint of model={theirs}, and this run has model={model}")
    check_policy(folder.policy)


def model_of(folder: RunFolder) -> Any:
    """The node `model` of the configuration that a run folder holds, of any version. Raises UserError where there is none."""
    held = read_yaml(folder.config)
    if not isinstance(held.get("model"), DictConfig) or "seed" not in held:
        raise unreadable(folder.config, "is cut off")
    return held.model


@functools.cache
def check_env(settings: str) -> None:
    """Build the environment once, for what only building it shows: data that is not there, or cannot be read."""
    from pilotrl.envs import build

    try:
        build(json.loads(settings))
    except (TypeError, ValueError, LookupError, OSError) as error:
        raise UserError(f"env: cannot be built ({type(error).__name__}: {error}); check the keys of env") from error


def config_keys(cls: type = Config, prefix: str = "") -> Iterator[str]:
    """Dotted keys of all values that `Config` knows; a node that may be null is a value too."""
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        kinds = typing.get_args(hints[field.name]) or (hints[field.name],)
        node = next((kind for kind in kinds if is_dataclass(kind)), None)
        if node is None or type(None) in kinds:
            yield prefix + field.name
        if node is not None:
            yield from config_keys(cast(type, node), f"{prefix}{field.name}.")


def flat(config: Any) -> dict[str, Any]:
    """All values of a configuration under their dotted keys, interpolations as they are written."""

    def walk(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(cast(dict[str, Any], OmegaConf.to_container(config)), ""))

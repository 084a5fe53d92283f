"""Is this configuration one that can run? Asked of values before anything is created; every refusal is one line.

Types are checked by composition against `pilotrl.config.schema`. Ranges and known names are in `pilotrl.cli.ranges`. Here:
what depends on several values, keys of the open nodes `env`, `teacher` and `judge`, and whether what a value points to exists.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import re
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, make_dataclass
from difflib import SequenceMatcher
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pilotrl import CONF, PACKAGE
from pilotrl.cli.ranges import rules
from pilotrl.config.schema import Algorithm, Config
from pilotrl.rewards.terms import TERMS
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import UserError

OPEN = ("env", "teacher", "judge")
"""Nodes whose keys are those of the class that `_target_` names."""

HUB_NAME = r"\w[\w.-]*/\w[\w.-]*"


def check(config: Config) -> None:
    """Raises UserError for the first value that cannot be run. The configuration is typed and has no unknown keys."""
    for key in sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{key}: has no value; give it one on the command line, or choose an option that does")
    for key, (holds, allowed) in rules(config).items():
        value = OmegaConf.select(cast(DictConfig, config), key)
        if value is not None and not holds(value):
            raise UserError(f"{key}={show(value)}: must be {allowed}")
    check_weights(config)
    check_algorithm(config.algorithm)
    check_stage(config)
    check_plans(config)
    check_lora(config)
    check_roles(config)
    if config.parent is not None:
        check_parent(config.parent, config.model.name)
    elif config.model.endpoint is not None:
        check_target("model.endpoint", config.model.endpoint)
    elif config.model.scratch is None:
        check_model(config.model.path)
    for node in OPEN:
        check_target(node, getattr(config, node))
    environment = cast(dict[str, Any], OmegaConf.to_container(config.env, resolve=True))
    check_env(json.dumps(environment, sort_keys=True))
    try:
        check_env(json.dumps(environment | {"split": config.panel.split}, sort_keys=True))
    except UserError as error:
        raise UserError(str(error).replace("env.split=", "panel.split=")) from error


def check_weights(config: Config) -> None:
    for name, weight in config.reward.weights.items():
        if name not in TERMS:
            near = nearest(name, TERMS)
            raise UserError(f"reward.weights.{name}={weight}: there is no such term; the nearest is {near}")
        if weight < 0:
            raise UserError(f"reward.weights.{name}={weight}: must be at least 0")
    if not any(config.reward.weights[term] for term in config.stage.terms):
        raise UserError(f"stage.terms={show(config.stage.terms)}: all have weight 0 in reward.weights; raise one")


def check_plans(config: Config) -> None:
    """Who trains or counts plans needs plans that the policy writes; in an evaluation nobody trains."""
    stage = config.stage
    credited = config.algorithm.turn_credit and "plan_quality" in stage.terms and config.reward.weights["plan_quality"]
    if stage.train_unselected and not credited:
        why = "credits a plan that was not followed; use algorithm=grpo, algorithm.turn_credit=1 and the term plan_quality"
        raise UserError(f"stage.train_unselected=true: nothing {why}")
    if stage.actor == "expert" or (stage.planner == "policy" and config.agent.plans != "never"):
        return
    no_plans = "agent.plans=never" if config.agent.plans == "never" else f"stage.planner={stage.planner}"
    if "plan_quality" in stage.terms:
        raise UserError(
            f"stage.terms={show(stage.terms)}: with {no_plans} the policy writes no plan that could be graded"
        )
    if "executor" not in stage.trains:
        raise UserError(f"stage.trains={show(stage.trains)}: with {no_plans} the policy writes no plan to learn from")


def check_stage(config: Config) -> None:
    """Demonstrations are for sft, and sft for demonstrations: those have no rewards, and a policy's samples are no examples."""
    actor, name = config.stage.actor, config.algorithm.name
    if (actor == "expert") != (name == "sft"):
        who, use = ("the expert", "algorithm=sft") if actor == "expert" else ("the policy", "algorithm=grpo or ppo")
        raise UserError(f"algorithm.name={name}: does not learn from what {who} plays (stage.actor={actor}); use {use}")
    if actor == "policy" and config.train.validate_every:
        often = config.train.validate_every
        raise UserError(
            f"train.validate_every={often}: is for demonstrations (stage.actor=expert); set it to 0, panels measure"
        )


def check_algorithm(algorithm: Algorithm) -> None:
    """What an algorithm does not read is null in its file, and has to stay so; what it reads has to have a value."""
    path = CONF / "algorithm" / f"{algorithm.name}.yaml"
    for key, usual in flat(OmegaConf.load(path)).items() if path.is_file() else ():
        value = getattr(algorithm, key)
        if usual is None and value is not None:
            raise UserError(f"algorithm.{key}={value}: {algorithm.name} does not read it; leave it null")
        if usual is not None and value is None and key != "dual_clip":
            raise UserError(f"algorithm.{key}=null: {algorithm.name} needs a number; set it")


def check_lora(config: Config) -> None:
    """Adapters need weights to sit on, and small updates need a dtype that holds them; a parent's adapters stay as they are."""
    model, parent = config.model, config.parent
    if model.lora.rank is None and model.dtype == "bfloat16":
        raise UserError("model.dtype=bfloat16: rounds updates of all weights away; use float32, or model.lora.rank=16")
    if model.lora.rank is not None and model.scratch is not None and parent is None:
        raise UserError(
            f"model.lora.rank={model.lora.rank}: a model from nothing has to learn all its weights; leave it null"
        )
    policy = Path(parent or "") / "policy"
    adapter = next(policy.glob("**/adapter_config.json"), None)
    if model.lora.rank is not None and parent is not None and adapter is not None:
        theirs = json.loads(adapter.read_text())
        held = {"rank": theirs["r"], "alpha": theirs["lora_alpha"], "targets": sorted(theirs["target_modules"])}
        ours = {"rank": model.lora.rank, "alpha": model.lora.alpha, "targets": sorted(model.lora.targets)}
        if key := next((key for key in held if held[key] != ours[key]), None):
            raise UserError(f"model.lora.{key}={ours[key]}: the adapters of parent={parent} have {held[key]}; use that")


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
    theirs = OmegaConf.load(RunFolder(parent).config).model.get("roles", "shared")
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
    theirs = OmegaConf.load(folder.config).model.name
    if theirs != model:
        raise UserError(f"parent={parent}: holds a checkpoint of model={theirs}, and this run has model={model}")


def check_target(node: str, settings: DictConfig) -> None:
    """The keys of an open node are keywords of its class, and their values have the types that it declares."""
    target = str(settings.get("_target_"))
    cls = locate(f"{node}._target_", target)
    hints = keywords(cls)
    schema = OmegaConf.structured(make_dataclass(cls.__name__, hints.items()))
    for key in map(str, settings):
        if key == "_target_":
            continue
        value = settings[key]
        if key not in hints:
            near = nearest(key, hints)
            raise UserError(f"{node}.{key}={show(value)}: {target} has no such key; the nearest is {node}.{near}")
        for name in value if OmegaConf.is_dict(value) else ():
            if OmegaConf.is_dict(value[name]) and "_target_" in value[name]:
                check_target(f"{node}.{key}.{name}", value[name])
        try:
            schema[key] = value
        except OmegaConfBaseException as error:
            raise UserError(f"{node}.{key}={show(value)}: {str(error).splitlines()[0]}") from error


def locate(key: str, target: str) -> type:
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}={target}: cannot be imported ({error}); give the dotted path of a class") from error
    if not inspect.isclass(cls):
        raise UserError(f"{key}={target}: is not a class; give the dotted path of a class")
    return cls


def keywords(cls: type) -> dict[str, Any]:
    """Keywords of a constructor and their types; Any for what a configuration cannot express, which its caller adds."""
    hints: dict[str, Any] = {}
    with contextlib.suppress(NameError):  # annotations of others may name what only a type checker imports
        # Of a dataclass each field is read where it was written, which may be another module.
        hints = typing.get_type_hints(cls if is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
    return {name: expressible(hints.get(name, Any)) for name in inspect.signature(cls).parameters}


def expressible(hint: Any) -> Any:
    plain = (bool, int, float, str, type(None))
    return hint if all(part in plain for part in (typing.get_args(hint) or (hint,))) else Any


@functools.cache
def check_env(settings: str) -> None:
    """Build the world once, for what only building it shows: data that is not there, or cannot be read."""
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


def nearest(word: str, known: Iterable[str]) -> str:
    """The known key that looks most like `word`, or like its last part: `lr` finds `train.lr`."""

    def likeness(key: str) -> float:
        whole = SequenceMatcher(None, word, key).ratio()
        leaf = SequenceMatcher(None, word.rpartition(".")[2], key.rpartition(".")[2]).ratio()
        return max(whole, leaf - 0.01)

    return max(sorted(known), key=likeness)


def show(value: Any) -> str:
    return str(value).replace("'", "").replace(" ", "") if OmegaConf.is_list(value) else str(value)

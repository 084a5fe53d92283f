"""What each value of a configuration may be, beyond its type: ranges, and known names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any

from pilotrl.config import search_path
from pilotrl.config.schema import Config, Scratch
from pilotrl.prompts.replies import FORMS
from pilotrl.store.redact import is_address

PLANS = r"always|once|never|asked|every [1-9]\d{0,5}"
STORES = {"databricks", "http", "https", "mssql", "mysql", "postgresql", "sqlite"}
"""Schemes that MLflow itself keeps runs under."""
STRATEGIES = ("auto", "ddp", "fsdp")
"""How several ranks hold the weights: each all of them (auto is ddp), or a part."""

MANY, SANE = 10**6, 10**9
"""Bounds of what is computed one by one, and of what only has to be a number that a computer holds."""

Rule = tuple[Callable[[Any], bool], str]


def at_least(low: float, high: float = MANY, *, unlimited: bool = False) -> Rule:
    """A finite number from `low` to `high`; `unlimited`: or infinity, for no limit."""
    allowed = f"at least {low:g}, or inf for no limit" if unlimited else f"at least {low:g}, at most {high:.9g}"
    return lambda value: low <= value <= high or (unlimited and value >= low), allowed


def within(low: float, high: float) -> Rule:
    """A finite number from `low` to `high`."""
    return lambda value: low <= value <= high, f"from {low:.10g} to {high:.10g}" if low < high else f"{low:g}"


def above(low: float, high: float) -> Rule:
    return lambda value: low < value <= high, f"above {low:g}, at most {high:.9g}"


def a_name() -> Rule:
    """Part of a path, so no slash, and nothing that a terminal would obey."""
    return lambda name: bool(
        re.fullmatch(search_path.NAME, name)
    ), "a name of letters, digits, and the characters . _ - after the first"


def a_model_of_an_address() -> Rule:
    """What servers call models: `org/name`, `name:tag`, `@account/name`."""
    return lambda name: bool(re.fullmatch(r"[\w.:/@+-]+", name)), "a model's name, such as org/name or name:tag"


def a_text(longest: int) -> Rule:
    """A line that can be shown."""
    holds = lambda text: bool(text.strip()) and text.isprintable() and len(text) <= longest  # noqa: E731
    return holds, f"some text in one line, at most {longest} characters"


def a_path() -> Rule:
    holds = lambda path: bool(path.strip()) and path.isprintable()  # noqa: E731
    return holds, "a folder (it is empty where a shell variable is not set)"


def one_of(names: Iterable[str]) -> Rule:
    known = sorted(names)
    return lambda value: value in known, "one of " + ", ".join(known)


def some_of(names: Iterable[str]) -> Rule:
    known = sorted(names)
    allowed = "one or more of " + ", ".join(known) + ", each once"
    return lambda value: bool(value) and set(value) <= set(known) and len(set(value)) == len(value), allowed


def any_of(names: Iterable[str]) -> Rule:
    known = sorted(names)
    allowed = "none, or some of " + ", ".join(known) + ", each once"
    return lambda value: set(value) <= set(known) and len(set(value)) == len(value), allowed


def stores() -> Rule:
    """Where MLflow can keep runs: the schemes that it and what is installed beside it know. Folders it no longer takes."""
    known = sorted(STORES | {entry.name for entry in entry_points(group="mlflow.tracking_store")} - {"", "file"})

    def holds(uri: str) -> bool:
        scheme, address, rest = uri.partition("://")
        web = scheme.lower() in ("http", "https")
        there = bool(address) and scheme.lower().partition("+")[0] in known and bool(rest.strip("/"))
        return uri.isprintable() and (uri in ("off", "databricks") or (there and (not web or is_address(uri))))

    return holds, f"off, sqlite:///FILE, or an address that MLflow knows ({', '.join(f'{name}://' for name in known)})"


def rules(config: Config) -> dict[str, Rule]:
    """What each value may be. A value of null passes: where its type allows null, null is meant."""
    return _acting(config) | _learning(config) | _running(config)


def _acting(config: Config) -> dict[str, Rule]:
    """Who plays, how, and for what."""
    model, reply = config.model, within(1, config.model.max_length - 1)
    shorter = reply[0], f"{reply[1]}, less than model.max_length={model.max_length}"
    return {
        "model.name": a_name() if model.endpoint is None else a_model_of_an_address(),
        "model.dtype": one_of(["float32", "bfloat16"]),
        "model.lora.rank": within(1, 4096),
        "model.lora.alpha": above(0, MANY),
        "model.lora.targets": (
            lambda names: model.lora.rank is None or (bool(names) and len(set(names)) == len(names)),
            "names of linear layers, each once, such as [q_proj,v_proj]",
        ),
        "model.roles": one_of(["shared", "separate", "isolated"]),
        "model.max_length": within(2, 2**20),
        "model.max_plan_tokens": shorter,
        "model.max_action_tokens": shorter,
        **(_scratch(model.scratch) if model.scratch is not None else {}),
        "agent.name": a_name(),
        "agent.plans": (
            lambda plans: bool(re.fullmatch(PLANS, plans)),
            "always, once, never, asked, or every K (every 3, say)",
        ),
        "agent.steps": one_of(["action", "subgoal"]),
        "agent.shows": one_of(["step", "plan", "none"]),
        "agent.context": one_of(["append", "current"]),
        "agent.window": at_least(1, SANE),
        "agent.replies": one_of(FORMS),
        "env.max_turns": (lambda turns: not isinstance(turns, int) or 1 <= turns <= 10_000, "from 1 to 10000"),
        "stage.name": a_name(),
        "stage.actor": one_of(["policy", "expert"]),
        "stage.planner": one_of(["teacher", "policy"]),
        "stage.trains": some_of(["planner", "executor"]),
        "stage.terms": some_of(config.reward.weights),
        "stage.candidates": within(1, 64),
        "stage.demonstrations": at_least(1),
        "stage.detours": within(0, 1),
        "stage.loose": within(0, 1),
        "stage.own_actions": _of_demonstrations(config.stage.actor),
        "stage.observation_weight": _of_demonstrations(config.stage.actor),
        "stage.agents": any_of(search_path.options("agent")),
        "curriculum.name": a_name(),
        "curriculum.turns": (
            lambda turns: all(1 <= few < many for few, many in pairwise([*turns, 10_001])),
            "whole numbers from 1 to 10000, each above the one before",
        ),
        "curriculum.easy": within(0, 1),
        "curriculum.hard": within(0, 1),
        "reward.overlong_buffer": within(0, 1),
        "reward.overlong_penalty": at_least(0, 100),
    }


def _of_demonstrations(actor: str) -> Rule:
    holds, allowed = within(0, 1 if actor == "expert" else 0)
    return holds, allowed if actor == "expert" else "0, but in demonstrations (stage.actor=expert)"


def _scratch(sizes: Scratch) -> dict[str, Rule]:
    """A Llama that can be built, and a tokenizer that has every byte."""
    width, heads = sizes.width, sizes.heads
    fits = lambda n: n >= 1 and width % n == 0 and width // n % 2 == 0  # noqa: E731
    split = f"at least 1, and cut model.scratch.width={width} into heads of an even size"
    own: dict[str, Rule] = {
        "vocabulary": within(261, MANY),
        "width": (lambda n: 2 <= n <= 65536 and n % 2 == 0, "even, at least 2, at most 65536"),
        "inner": within(1, 2**18),
        "layers": within(1, 1024),
        "heads": (fits, split),
        "kv_heads": (lambda n: n >= 1 and heads % n == 0, f"at least 1, and divide model.scratch.heads={heads}"),
        "texts": at_least(1),
        "copying": (lambda n: 0 <= n <= sizes.layers, f"at least 0, and at most model.scratch.layers={sizes.layers}"),
    }
    return {f"model.scratch.{name}": rule for name, rule in own.items()}


def _learning(config: Config) -> dict[str, Rule]:
    tasks = config.train.tasks
    most = max(1, MANY // tasks) if tasks > 0 else MANY
    return {
        "train.steps": at_least(1),
        "train.tasks": at_least(1),
        "train.group_size": (
            lambda size: 1 <= size <= most,
            f"at least 1, at most {most}: a step of train.tasks={tasks} has a million episodes at most",
        ),
        "train.resample": within(0, 100),
        "train.lag": within(0, 1),
        "train.minibatches": at_least(1),
        "train.micro_tokens": at_least(1, 10**8),
        "train.lr": above(0, 10),
        "train.muon_lr": above(0, 10),
        "train.lr_schedule": one_of(["constant", "linear", "cosine"]),
        "train.lr_warmup": at_least(0),
        "train.weight_decay": at_least(0, 100),
        "train.grad_clip": at_least(1e-6, unlimited=True),
        "train.temperature": within(0.01, 100),
        "train.max_broken": within(0, 1),
        "train.patience": at_least(0),
        "train.validate_every": at_least(0),
        "train.validate_tasks": at_least(1 if config.train.validate_every else 0),
    }


def _running(config: Config) -> dict[str, Rule]:
    """What is measured, on what, and what is kept."""
    tasks = config.panel.tasks
    most = max(1, MANY // tasks) if tasks > 0 else MANY
    return {
        "algorithm.name": a_name(),
        "engine.name": a_name(),
        "engine.slots": at_least(1),
        "engine.memory_gb": above(0, 10_000),
        "panel.tasks": at_least(1),
        "panel.samples": (
            lambda samples: 1 <= samples <= most,
            f"at least 1, at most {most}: with panel.tasks={tasks} that is a million episodes",
        ),
        "panel.temperature": within(0.01, 100),
        "panel.top_p": within(0.01, 1),
        "drift.tasks": at_least(1),
        "drift.every": at_least(0),
        "trainer.accelerator": one_of(["auto", "cpu", "cuda", "gpu", "mps", "tpu"]),
        "trainer.strategy": one_of(STRATEGIES),
        "trainer.devices": within(1, 1024),
        "trainer.num_nodes": within(1, 10_000),
        "trainer.threads": within(1, 1024),
        "trainer.deadline": above(0, MANY),
        "checkpoint.every": at_least(1, SANE),
        "checkpoint.calls_every": at_least(0, SANE),
        "root": a_path(),
        "tracking.uri": stores(),
        "tracking.experiment": a_text(500),
        "tracking.traces": at_least(0),
        "tracking.model_mb": at_least(0, SANE),
        "seed": within(0, 2**32 - 1),
    }

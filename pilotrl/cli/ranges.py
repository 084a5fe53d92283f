"""What each value of a configuration may be, beyond its type: ranges, and known names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any

from pilotrl.config import search_path
from pilotrl.config.schema import Config, Scratch

PLANS = r"always|once|never|asked|every [1-9]\d{0,5}"
STORES = {"databricks", "file", "http", "https", "mssql", "mysql", "postgresql", "sqlite"}
"""Schemes that MLflow itself keeps runs under."""

Rule = tuple[Callable[[Any], bool], str]


def at_least(low: float) -> Rule:
    return lambda value: value >= low, f"at least {low}"


def within(low: float, high: float) -> Rule:
    return lambda value: low <= value <= high, f"from {low} to {high}"


def above(low: float, high: float = float("inf")) -> Rule:
    return lambda value: low < value <= high, f"above {low}" + (f", at most {high}" if high < float("inf") else "")


def one_of(names: Iterable[str]) -> Rule:
    known = sorted(names)
    return lambda value: value in known, "one of " + ", ".join(known)


def some_of(names: Iterable[str]) -> Rule:
    known = sorted(names)
    return lambda value: bool(value) and set(value) <= set(known), "one or more of " + ", ".join(known)


def any_of(names: Iterable[str]) -> Rule:
    known = sorted(names)
    return lambda value: set(value) <= set(known), "none, or some of " + ", ".join(known)


def name() -> Rule:
    """What becomes part of paths."""
    return lambda value: bool(re.fullmatch(search_path.NAME, value)), "letters, digits, and _ . - between them"


def stores() -> Rule:
    """Where MLflow can keep runs: the schemes that it and what is installed beside it know."""
    known = sorted(STORES | {entry.name for entry in entry_points(group="mlflow.tracking_store")})

    def holds(uri: str) -> bool:
        scheme, address, _ = uri.partition("://")
        return not address or scheme.lower().partition("+")[0] in known

    return holds, f"off, a folder, or an address that MLflow knows ({', '.join(f'{name}://' for name in known)})"


def rules(config: Config) -> dict[str, Rule]:
    """What each value may be. A value of null passes: where its type allows null, null is meant."""
    return _acting(config) | _learning(config) | _running()


def _acting(config: Config) -> dict[str, Rule]:
    """Who plays, how, and for what."""
    return {
        **{f"{node}.name": name() for node in ("agent", "algorithm", "engine", "stage")},
        **({} if config.model.endpoint else {"model.name": name()}),
        "model.dtype": one_of(["float32", "bfloat16"]),
        "model.lora.rank": at_least(1),
        "model.lora.alpha": above(0),
        "model.roles": one_of(["shared", "separate", "isolated"]),
        "model.max_length": above(max(config.model.max_plan_tokens, config.model.max_action_tokens)),
        "model.max_plan_tokens": at_least(1),
        "model.max_action_tokens": at_least(1),
        **{f"model.scratch.{field.name}": at_least(1) for field in fields(Scratch)},
        "agent.plans": (
            lambda plans: bool(re.fullmatch(PLANS, plans)),
            "always, once, never, asked, or every K (every 3, say)",
        ),
        "agent.context": one_of(["append", "current"]),
        "agent.window": at_least(1),
        "stage.actor": one_of(["policy", "expert"]),
        "stage.planner": one_of(["teacher", "policy"]),
        "stage.trains": some_of(["planner", "executor"]),
        "stage.terms": some_of(config.reward.weights),
        "stage.candidates": at_least(1),
        "stage.demonstrations": at_least(1),
        "stage.detours": within(0, 1),
        "stage.observation_weight": within(0, 1 if config.stage.actor == "expert" else 0),
        "stage.agents": any_of(search_path.options("agent")),
        "reward.overlong_buffer": within(0, 1),
        "reward.overlong_penalty": at_least(0),
    }


def _learning(config: Config) -> dict[str, Rule]:
    return {
        "train.steps": at_least(1),
        "train.tasks": at_least(1),
        "train.group_size": at_least(1),
        "train.minibatches": at_least(1),
        "train.micro_tokens": at_least(1),
        "train.lr": above(0),
        "train.muon_lr": above(0),
        "train.lr_schedule": one_of(["constant", "linear", "cosine"]),
        "train.lr_warmup": at_least(0),
        "train.weight_decay": at_least(0),
        "train.grad_clip": above(0),
        "train.temperature": above(0),
        "train.patience": at_least(0),
        "train.validate_every": at_least(0),
        "train.validate_tasks": at_least(1 if config.train.validate_every else 0),
    }


def _running() -> dict[str, Rule]:
    """What is measured, on what, and what is kept."""
    return {
        "engine.slots": at_least(1),
        "panel.tasks": at_least(1),
        "panel.samples": at_least(1),
        "panel.temperature": above(0),
        "panel.top_p": above(0, 1),
        "drift.tasks": at_least(1),
        "drift.every": at_least(0),
        "trainer.accelerator": one_of(["auto", "cpu", "cuda", "gpu", "mps", "tpu"]),
        "trainer.devices": at_least(1),
        "trainer.num_nodes": at_least(1),
        "trainer.threads": at_least(1),
        "checkpoint.every": at_least(1),
        "checkpoint.calls_every": at_least(0),
        "tracking.uri": stores(),
        "tracking.traces": at_least(0),
        "tracking.model_mb": at_least(0),
        "seed": within(0, 2**32 - 1),
    }

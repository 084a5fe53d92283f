"""What keys, classes and metrics were called before: refused with the new name, and translated in old run folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotrl.config import search_path

KEYS = {
    "stage.plays": "stage.actor",
    "stage.world": "stage.observation_weight",
    "algorithm.scale": "algorithm.scale_rewards",
}
"""Of the configuration."""
CLASSES = {"pilotrl.judge.": "pilotrl.rewards.judge."}
"""How dotted paths of `_target_` begin."""
METRICS = {
    "train/dead_groups": "train/frac_reward_zero_std",
    "train/dead_failed": "train/frac_groups_unsolved",
    "train/dead_missing": "train/frac_groups_unscored",
    "train/clip_share": "train/clip_ratio",
}
"""Of metrics.jsonl and MLflow."""
OPENED = ("algorithm", "engine")
"""Nodes that had no `_target_`: their names tell it."""


def is_old(config: Mapping[str, Any]) -> bool:
    """Whether a configuration, as a plain dictionary, was written before the renaming."""
    return translated(config) != config


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration, as a plain dictionary, with the names of today; one of today comes back equal."""
    held = {node: dict(values) if isinstance(values, Mapping) else values for node, values in config.items()}
    for old, new in KEYS.items():
        (node, before), after = old.split("."), new.split(".")[1]
        if before in (held.get(node) or {}):
            held[node][after] = held[node].pop(before)
    for node in OPENED:
        if node in held and "_target_" not in held[node]:
            held[node] = _opened(node, held[node])
    if "terms" not in held.get("reward", {"terms": {}}):
        held["reward"] |= {"terms": {}, "weights": {**held["reward"]["weights"], "score": 1.0}}  # no old run counted it
    if isinstance(agent := held.get("agent"), dict) and "plans" in agent:  # what the executor of older runs was shown
        held["agent"] = {
            "shows": "none" if agent["plans"] == "never" else "step",
            "replies": "line",
            "steps": "action",
            **agent,
        }
    if isinstance(stage := held.get("stage"), dict) and "detours" in stage:
        held["stage"] = {"loose": 0.0, "own_actions": 0.0, **stage}
    if "train" in held:  # no older run ended for its broken episodes, replaced groups, or was played by older weights
        held["train"] = {"max_broken": 1.0, "resample": 0, "lag": 0, **(held["train"] or {})}
    if str((held.get("teacher") or {}).get("_target_")).endswith(".ExpertTeacher"):
        held["teacher"] = {"wording": "exact", **held["teacher"]}
    if "seed" in held:  # a whole configuration
        held.setdefault("trust", [])
        held.setdefault("curriculum", {"name": "none", "turns": [], "easy": None, "hard": None})
    return {key: _with_classes(value) for key, value in held.items()}


def _opened(node: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """An algorithm's or engine's options, without those that it did not read, under the class of its name."""
    name = str(values.get("name"))
    own = search_path.settings(node, name) if search_path.find(node, name) else {}
    known = {key: value for key, value in values.items() if key in own}
    return {str(key): value for key, value in {**own, **known}.items()}


def _with_classes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_classes(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_with_classes(held) for held in value]
    if isinstance(value, str):
        return next((new + value.removeprefix(old) for old, new in CLASSES.items() if value.startswith(old)), value)
    return value


def new_name(key: str) -> str | None:
    """What a key, or a key below it, is called now."""
    return KEYS.get(key)

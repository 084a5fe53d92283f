"""What configuration keys, classes and metrics were called in run folders of earlier revisions, and what they are called now."""

from __future__ import annotations

from typing import Any

KEYS = {
    "stage.plays": "stage.actor",
    "stage.world": "stage.observation_weight",
    "algorithm.scale": "algorithm.scale_rewards",
}
"""Dotted keys of the configuration, old to new."""
CLASSES = {"pilotrl.judge.": "pilotrl.rewards.judge."}
"""Beginnings of `_target_`, old to new."""
METRICS = {
    "train/dead_groups": "train/frac_reward_zero_std",
    "train/dead_failed": "train/frac_groups_unsolved",
    "train/dead_missing": "train/frac_groups_unscored",
    "train/clip_share": "train/clip_ratio",
}
"""Names in metrics.jsonl, old to new."""


def translated(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration in the names of today; a nested dictionary, as are those of YAML. The argument stays as it is.

    Where a key is there under both names, the new one counts.
    """
    return {key: _node(value, f"{key}.") for key, value in _in_new_keys(config, "").items()}


def _node(value: Any, prefix: str) -> Any:
    if isinstance(value, dict):
        return {key: _node(below, f"{prefix}{key}.") for key, below in _in_new_keys(value, prefix).items()}
    if isinstance(value, list):
        return [_node(below, prefix) for below in value]
    return value


def _in_new_keys(node: dict[str, Any], prefix: str) -> dict[str, Any]:
    """One level of a configuration; its keys keep their order."""
    now: dict[str, Any] = {}
    for key, value in node.items():
        name = KEYS.get(f"{prefix}{key}", f"{prefix}{key}").removeprefix(prefix)
        if name == key or name not in node:
            now[name] = _class(value) if key == "_target_" else value
    return now


def _class(target: Any) -> Any:
    for old, new in CLASSES.items():
        if isinstance(target, str) and target.startswith(old):
            return f"{new}{target.removeprefix(old)}"
    return target

"""Descriptions of a run from its configuration: name, environments, git revision, hash; loads no model."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from pilotrl import PACKAGE, envs
from pilotrl.config.schema import Config
from pilotrl.envs import MIXTURE, mixture
from pilotrl.store.reading import read_json

IN_THE_START = " in the start"
"""Stands after the name of a held-out environment that the model was trained in before it was shipped."""


def as_dict(node: Any) -> dict[str, Any]:
    """A node of the configuration as a plain dictionary."""
    held = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else asdict(node)
    assert isinstance(held, dict)
    return {str(key): value for key, value in held.items()}


def env_name(config: Config) -> str:
    """Name of the environment, as `env=` chose it: that of its file."""
    return envs.called(config.env)


def is_mixture(config: Config) -> bool:
    return envs.name_of(config.env) == MIXTURE


def environments(config: Config) -> dict[str, dict[str, Any]]:
    """Settings of a run's environments, by name: one, or those of a mixture."""
    settings = as_dict(config.env)
    return mixture.members(**settings) if is_mixture(config) else {env_name(config): settings}


def averages(config: Config) -> dict[str, list[str]]:
    """For a mixture, the averages to report and their environments: trained (ID), held out (OOD), and all (Avg). What is held
    out of this run but was in the start of its model is not out of distribution, and the average is named for that."""
    if not is_mixture(config):
        return {}
    trained, held_out = list(config.env["trains"]), list(config.env["holds_out"])
    out = f"OOD{IN_THE_START}" if in_the_start(config) else "OOD"
    return {"ID": trained, **({out: held_out} if held_out else {}), "Avg": trained + held_out}


def in_the_start(config: Config) -> list[str]:
    """The held-out environments of a mixture in which a shipped model was trained before it was shipped."""
    held_out, seen = config.env.get("holds_out", ()), _started_in(config) or ()
    return sorted(
        name for name, settings in environments(config).items() if name in held_out and envs.class_of(settings) in seen
    )


def _started_in(config: Config) -> list[str] | None:
    """The environments that a shipped model was trained in, by its `config.json`; None for weights that are not shipped."""
    name = config.model.path.removeprefix("pilotrl:")
    if name == config.model.path or config.model.scratch:
        return None
    found: list[str] = read_json(PACKAGE / "models" / "weights" / name / "config.json")["started_in"]
    return found


def unseen_environment_warning(config: Config) -> str | None:
    """A warning if a shipped model was never trained in the run's environment, by its `config.json`; else None."""
    seen = None if config.parent or config.stage.actor == "expert" else _started_in(config)
    held_out = config.env.get("holds_out", ())
    if seen is None:
        return None
    known = {name for name, settings in environments(config).items() if envs.class_of(settings) in seen}
    if not (unseen := sorted({*environments(config)} - {*known, *held_out})):
        return None
    name = config.model.path.removeprefix("pilotrl:")
    return (
        f"model={name} has never seen {', '.join(unseen)}; better: a start of your own, stage=warmstart model=scratch"
    )


def identity(config: Config) -> dict[str, Any]:
    """The first keys of summary.json, which identify the run."""
    return {
        "schema": 1,
        "stage": config.stage.name,
        "env": env_name(config),
        "model": config.model.name,
        "agent": config.agent.name,
        "algorithm": config.algorithm.name,
        "seed": config.seed,
        "parent": config.parent,
        "in_the_start": in_the_start(config),
        "git_revision": git_revision(),
        "config_sha256": hashlib.sha256(json.dumps(as_dict(config), sort_keys=True).encode()).hexdigest(),
    }


def git_revision() -> str | None:
    """Git revision of this code's checkout; None outside of one."""
    process = subprocess.run(["git", "-C", str(PACKAGE), "rev-parse", "HEAD"], capture_output=True, text=True)
    return process.stdout.strip() or None

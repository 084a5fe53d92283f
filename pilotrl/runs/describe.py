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


def as_dict(node: Any) -> dict[str, Any]:
    """A node of the configuration as a plain dictionary."""
    held = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else asdict(node)
    assert isinstance(held, dict)
    return {str(key): value for key, value in held.items()}


def env_name(config: Config) -> str:
    """Name of the environment: webshop, from `_target_: pilotrl.envs.webshop.WebShop`."""
    return envs.name_of(config.env)


def environments(config: Config) -> dict[str, dict[str, Any]]:
    """Settings of a run's environments, by name: one, or those of a mixture."""
    name, settings = env_name(config), as_dict(config.env)
    return mixture.members(**settings) if name == MIXTURE else {name: settings}


def averages(config: Config) -> dict[str, list[str]]:
    """For a mixture, the averages to report and their environments: trained (ID), held out (OOD), and all (Avg)."""
    if env_name(config) != MIXTURE:
        return {}
    trained, held_out = list(config.env["trains"]), list(config.env["holds_out"])
    return {"ID": trained, **({"OOD": held_out} if held_out else {}), "Avg": trained + held_out}


def unseen_environment_warning(config: Config) -> str | None:
    """A warning if a shipped model was never trained in the run's environment, by its `config.json`; else None."""
    name = config.model.path.removeprefix("pilotrl:")
    if name == config.model.path or config.parent or config.model.scratch or config.stage.actor == "expert":
        return None
    model_config = json.loads((PACKAGE / "models" / "weights" / name / "config.json").read_text())
    if not (unseen := sorted(set(environments(config)) - set(model_config["started_in"]))):
        return None
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
        "git_revision": git_revision(),
        "config_sha256": hashlib.sha256(json.dumps(as_dict(config), sort_keys=True).encode()).hexdigest(),
    }


def git_revision() -> str | None:
    """Git revision of this code's checkout; None outside of one."""
    process = subprocess.run(["git", "-C", str(PACKAGE), "rev-parse", "HEAD"], capture_output=True, text=True)
    return process.stdout.strip() or None

"""What a run is called and what it is of: names, environments, revision; no model is loaded for it."""

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


def prompt_set(config: Config) -> str | dict[str, Any]:
    """Which prompts are used: a name, or the settings of a class."""
    named = config.model.prompts
    return str(named) if isinstance(named, str) else as_dict(named)


def env_name(config: Config) -> str:
    """webshop, from pilotrl.envs.webshop.WebShop."""
    return envs.name_of(config.env)


def environments(config: Config) -> dict[str, dict[str, Any]]:
    """The environments that a run plays in, by name, and their settings: one, or those of a mixture."""
    name, settings = env_name(config), as_dict(config.env)
    return mixture.members(**settings) if name == MIXTURE else {name: settings}


def averages(config: Config) -> dict[str, list[str]]:
    """Of a mixture, what is averaged over which environments: those trained (ID), held out (OOD), and all (Avg)."""
    if env_name(config) != MIXTURE:
        return {}
    trained, held_out = list(config.env["trains"]), list(config.env["holds_out"])
    return {"ID": trained, **({"OOD": held_out} if held_out else {}), "Avg": trained + held_out}


def unseen_environment_warning(config: Config) -> str | None:
    """Says so where a shipped model has never seen the world that it is to act in; its `config.json` tells."""
    name = config.model.path.removeprefix("pilotrl:")
    if name == config.model.path or config.parent or config.model.scratch or config.stage.actor == "expert":
        return None
    card = json.loads((PACKAGE / "models" / "weights" / name / "config.json").read_text())
    if not (strange := sorted(set(environments(config)) - set(card["started_in"]))):
        return None
    return (
        f"model={name} has never seen {', '.join(strange)}; better: a start of your own, stage=warmstart model=scratch"
    )


def identity(config: Config) -> dict[str, Any]:
    """What summary.json begins with: which run this is."""
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
    """Of the checkout that this code is in; None outside of one."""
    asked = subprocess.run(["git", "-C", str(PACKAGE), "rev-parse", "HEAD"], capture_output=True, text=True)
    return asked.stdout.strip() or None

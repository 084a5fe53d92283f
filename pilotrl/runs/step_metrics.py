"""Metrics of a training step, computed from its episodes; and the name, tags and parameters of a run for MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf

from pilotrl import prompts
from pilotrl.analysis.measures import ENDED
from pilotrl.analysis.statistics import MEASURES
from pilotrl.cli.validate import prompt_set
from pilotrl.config.schema import Config
from pilotrl.rewards import terms
from pilotrl.runs.describe import env_name, git_revision
from pilotrl.tracking import sweeps
from pilotrl.tracking.sync_state import RunInfo
from pilotrl.types import Episode


def run_info(config: Config, path: Path) -> RunInfo:
    """Name, experiment, tags and parameters of the run in MLflow."""
    params: Any = OmegaConf.to_container(config, resolve=True)
    named = prompt_set(config.model.prompts)
    tags = {
        "stage": config.stage.name,
        "env": env_name(config),
        "model": config.model.name,
        "agent": config.agent.name,
        "algorithm": config.algorithm.name,
        "seed": str(config.seed),
        "starts_from": config.parent or ("random weights" if config.model.scratch else config.model.path),
        "folder": str(path.absolute()),
        "mlflow.source.git.commit": git_revision() or "",
    }
    return RunInfo(
        experiment=config.tracking.experiment,
        run_name=sweeps.run_name(path, stage=config.stage.name, env=env_name(config), seed=config.seed),
        params=params,
        tags={name: value for name, value in tags.items() if value},
        parent=config.parent,
        judge=str(config.judge["_target_"]).rpartition(".")[2],
        traces=config.tracking.traces,
        traces_every=config.checkpoint.calls_every,
        model_mb=config.tracking.model_mb,
        prompt_set=named if isinstance(named, str) else str(named["_target_"]).rpartition(".")[2],
        prompts=prompts.load(named, config.agent.plans, config.agent.shows),
    )


TOTALS = {
    "env/episodes": "episodes",
    "train/broken": "broken_episodes",
    "train/unscored": "unscored_verdicts",
    "tokens/generated": "generated_tokens",
    "tokens/trained": "trained_tokens",
    "seconds/rollout": "rollout_seconds",
    "seconds/update": "update_seconds",
}
"""Metrics that summary.json sums over the steps, and their names there."""


def episode_metrics(episodes: Sequence[Episode], own: Iterable[str] = ()) -> dict[str, float]:
    """Metrics of a step's episodes, from before its update; `own` are reward terms beside ours."""
    whole = [episode for episode in episodes if episode.outcome != "broken"]

    def mean(values: Iterable[float | None]) -> float:
        known = [value for value in values if value is not None]
        return fmean(known) if known else math.nan

    return {
        "reward/total": mean(episode.reward for episode in whole),
        **{f"reward/{term}": mean(episode.terms[term] for episode in whole) for term in (*terms.TERMS, *own)},
        "env/success": mean(float(episode.outcome == "solved") for episode in whole),
        "env/score": mean(episode.score for episode in whole),
        **{name: mean(MEASURES[name](episode) for episode in whole) for name in ENDED},
        "env/turns": mean(float(len(episode.turns)) for episode in whole),
        "env/invalid_actions": mean(float(not turn.valid) for episode in whole for turn in episode.turns),
        "env/episodes": len(episodes),
        "train/broken": len(episodes) - len(whole),
        "train/unscored": sum(terms.unscored_verdicts(episode) for episode in whole),
        "tokens/generated": sum(episode.tokens for episode in episodes),
    }


def success_by_env(episodes: Iterable[Episode]) -> dict[str, float]:
    """Success rate by environment, for a mixture."""
    solved = [(episode.task.env, episode.outcome == "solved") for episode in episodes if episode.outcome != "broken"]
    names = sorted({name for name, _ in solved})
    return {f"env/{name}/success": fmean(yes for other, yes in solved if other == name) for name in names}

"""Metrics of a training step, computed from its episodes; and the name, tags and parameters of a run for MLflow."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from omegaconf import OmegaConf

from pilotrl import prompts
from pilotrl.analysis.measures import ENDED
from pilotrl.analysis.statistics import MEASURES
from pilotrl.cli.validate import prompt_set
from pilotrl.config.schema import Config
from pilotrl.rewards import terms
from pilotrl.rollout.stopwatch import Phase
from pilotrl.runs.describe import env_name, git_revision
from pilotrl.tracking import sweeps
from pilotrl.tracking.sync_state import RunInfo
from pilotrl.types import Episode


def run_info(config: Config, path: Path) -> RunInfo:
    """Name, experiment, tags and parameters of the run in MLflow."""
    params: Any = OmegaConf.to_container(config, resolve=True)
    named, agent = prompt_set(config.model.prompts), config.agent
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
        prompts=prompts.load(named, agent.plans, agent.shows, agent.replies, agent.steps),
    )


log = logging.getLogger(__name__)

TOTALS = {
    "episodes": ["env/episodes"],
    "broken_episodes": ["train/broken"],
    "unscored_verdicts": ["train/unscored"],
    "generated_tokens": ["tokens/generated"],
    "trained_tokens": ["tokens/trained"],
    "rollout_seconds": [f"seconds/{phase}" for phase in ("generate", "environment", "judge", "sync", "wait")],
    "update_seconds": ["seconds/train"],
}
"""Numbers of summary.json, and the metrics that each is the sum of, over the steps."""
BY_CLOCK = ("time", "seconds/", "speed/", "memory/")
"""How the names of metrics begin that may differ between two runs of the same command."""
MANY_INVALID = 0.5
"""Share of invalid actions in the first step above which a line says so."""


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
        "env/unread_replies": mean(float(bool(turn.unread)) for episode in whole for turn in episode.turns),
        **({"env/tool_calls": mean(map(_tool_calls, whole))} if any(map(_tool_calls, whole)) else {}),
        "env/episodes": len(episodes),
        "train/broken": len(episodes) - len(whole),
        "train/unscored": sum(terms.unscored_verdicts(episode) for episode in whole),
        "tokens/generated": sum(episode.tokens for episode in episodes),
    }


def totals(lines: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """What summary.json adds up of the lines of metrics.jsonl."""
    return {total: sum(line.get(name) or 0 for line in lines for name in names) for total, names in TOTALS.items()}


def clock_metrics(
    step: int,
    lap: tuple[float, Mapping[Phase, float]],
    episodes: Sequence[Episode],
    counted: Mapping[str, float],
    device: torch.device,
) -> dict[str, float]:
    """Metrics of where a step's time went; the run's log names its slowest episode too.

    lap: of the stopwatch, seconds and those of each phase. counted: with the step's tokens. device: of the weights."""
    seconds, spent = lap
    ahead = counted.get("seconds/ahead", 0.0)
    phases = ", ".join(f"{phase} {of_phase:.1f}" for phase, of_phase in spent.items())
    slow = max(episodes, key=lambda episode: episode.seconds)
    log.info(
        "step %d: %.1f s (%s); slowest episode: %s, sample %d, %.1f s",
        step,
        seconds,
        phases + (f", ahead {ahead:.1f}" if ahead else ""),
        slow.task.id,
        slow.sample,
        slow.seconds,
    )
    return {
        "seconds/step": seconds,
        **{f"seconds/{phase}": of_phase for phase, of_phase in spent.items()},
        "seconds/slowest_episode": slow.seconds,
        "speed/generate": counted["tokens/generated"] / (spent["generate"] + ahead or math.nan),
        "speed/train": counted["tokens/trained"] / (spent["train"] or math.nan),
        **gpu_memory(device),
    }


def gpu_memory(device: torch.device) -> dict[str, float]:
    """GB of a GPU that this process has held at most since it was asked before; nothing where there is none."""
    if device.type != "cuda":
        return {}
    most = torch.cuda.max_memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    return {"memory/gpu_gb": most / 1e9}


def warn_of_invalid_actions(env: str, share: float | None) -> None:
    """A line where most actions of the first step are invalid."""
    if (share or 0.0) > MANY_INVALID:
        log.warning(
            "env=%s: did not understand %.0f %% of the actions of step 1, which teach little; python -m pilotrl.play shows "
            "what it takes, episodes.jsonl what it was given",
            env,
            100 * (share or 0.0),
        )


def _tool_calls(episode: Episode) -> float:
    return float(sum(len(turn.results) for turn in episode.turns))


def success_by_env(episodes: Iterable[Episode]) -> dict[str, float]:
    """Success rate by environment, for a mixture."""
    solved = [(episode.task.env, episode.outcome == "solved") for episode in episodes if episode.outcome != "broken"]
    names = sorted({name for name, _ in solved})
    return {f"env/{name}/success": fmean(yes for other, yes in solved if other == name) for name in names}

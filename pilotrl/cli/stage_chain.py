"""A chain: several stages in a row, each from the last one's weights. Which runs it is made of; no torch.

Every stage is composed from the chain's own command line with another `stage=`: what was typed holds for all of them, and
where nothing was typed, what a stage sets itself.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict

from pilotrl import CONF
from pilotrl.cli.compose import Job, composed_job, key_of, parse
from pilotrl.cli.stored_config import hydra_node, stored_config
from pilotrl.cli.suggestions import nearest, show
from pilotrl.config import search_path
from pilotrl.config.instantiate import NAME
from pilotrl.config.schema import Config
from pilotrl.store import stored_yaml
from pilotrl.store.run_folder import RUN, RunFolder, write_whole
from pilotrl.types import UserError

OWN = ("stage", "stage.name", "stage.order", "stage.lengths", "train.steps", "parent")
"""Keys of a command line that are about the chain; all others hold for each of its stages."""
ALIKE = ("env", "agent", "model", "panel")
"""Nodes that no stage may change: before and after a chain are one panel, and its weights one model."""


def stage_jobs(config: Config, hydra: Any) -> list[Job]:
    """The runs of a chain in order, each as if it were alone; none for a configuration that is no chain.

    hydra: Hydra's node beside the configuration. Raises UserError for a chain that cannot be.
    """
    if not (config.stage.order or config.stage.lengths):
        return []
    known: Any = OmegaConf.to_container(hydra) if OmegaConf.is_config(hydra) else hydra
    arguments = _arguments(known)
    check_order(config, arguments)
    typed = [line for line in known["overrides"]["task"] if not _is_own(key_of(line))]
    made = [composed_job(arguments, [*typed, f"stage={name}"]) for name in config.stage.order]
    for job, steps in zip(made, lengths(config), strict=True):
        job.config.train.steps, job.config.parent = steps, config.parent
        job.config.stage.order, job.config.stage.lengths = [], {}
        for node in ALIKE:
            if getattr(job.config, node) != getattr(made[0].config, node):
                name = job.config.stage.name
                raise UserError(f"stage.order={show(config.stage.order)}: {name} has another {node}; a chain has one")
    return made


def jobs_of(folder: RunFolder, typed: Sequence[str] = ()) -> list[Job]:
    """The runs of the chain that a folder holds. typed: overrides on this command line.

    Raises UserError for overrides in a folder that somebody else may have written which do more than to set a value."""
    config = stored_config(folder)
    if not config.stage.order:
        return []
    hydra = hydra_node(folder)
    if not hydra:
        raise UserError(f"{folder.hydra}: is not there; start the chain in a new folder")
    try:
        for line in hydra["overrides"]["task"] if RUN not in os.environ else ():  # else this very command began it
            does_more = "hydra" in line.partition("=")[0] or any(stored_yaml.interpolated(line))
            if does_more and line not in typed:
                raise UserError(
                    f"{folder.hydra}: {line} counts only where it is typed; start the chain in a new folder"
                )
        return stage_jobs(config, hydra)
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{folder.hydra}: cannot be read; start the chain in a new folder") from error


def lengths(config: Config) -> list[int]:
    """Steps of each stage: its share of `train.steps`, rounded so that they add up."""
    shares = [config.stage.lengths[name] for name in config.stage.order]
    ends = [round(config.train.steps * share / sum(shares)) for share in accumulate(shares)]
    return [end - start for start, end in pairwise([0, *ends])]


def check_order(config: Config, arguments: Namespace) -> None:
    """Raises UserError where the stages of a chain are unknown, chains themselves, or have no length."""
    stage, told = config.stage, f"stage.order={show(config.stage.order)}"
    if not stage.order:
        raise UserError("stage.order=[]: must name at least one stage")
    places = [CONF, *([Path(arguments.config_dir)] if arguments.config_dir else [])]
    files = {path.stem: path for place in places for path in sorted((place / "stage").glob("*.yaml"))}
    chains = [name for name, path in files.items() if OmegaConf.select(OmegaConf.load(path), "stage.order")]
    for name in stage.order:
        if name in chains:
            raise UserError(f"{told}: {name} is a chain itself; name the stages that it is made of")
        if name not in files:
            near = nearest(name, files.keys() - chains)
            raise UserError(f"{told}: there is no stage {name}; the nearest is {near}")
    for name in stage.order:
        if name not in stage.lengths:
            raise UserError(f"{told}: {name} has no share of train.steps; add +stage.lengths.{name}=1")
    for name, share in stage.lengths.items():
        if name not in files:
            raise UserError(
                f"stage.lengths.{name}={share}: there is no such stage; the nearest is {nearest(name, files)}"
            )
        if not 0 < share < float("inf"):
            raise UserError(f"stage.lengths.{name}={share}: must be above 0")
    for name, steps in zip(stage.order, lengths(config), strict=True):
        if steps < 1:
            raise UserError(
                f"train.steps={config.train.steps}: leaves no step for {name}; raise it, or its stage.lengths"
            )


def begin_stage(stage: RunFolder, job: Job, parent: Path | None) -> Config:
    """The configuration of a stage, which its folder then holds as if the stage had been started alone.

    parent: folder of the stage before; None for the first, which starts where the chain does."""
    if not stage.begun:
        if parent is not None:
            job.config.parent = str(parent)
        own = [f"train.steps={job.config.train.steps}", f"parent={job.config.parent or 'null'}"]
        with open_dict(job.hydra):
            job.hydra.overrides.task += own
            job.hydra.runtime.output_dir = str(stage.path.absolute())
        hidden = stage.config.parent
        for place in (stage.path, hidden):  # the chain's own folder is not made anew where somebody has removed it
            place.mkdir(exist_ok=True)
        write_whole(hidden / "overrides.yaml", OmegaConf.to_yaml(job.hydra.overrides.task))
        write_whole(stage.hydra, OmegaConf.to_yaml(OmegaConf.create({"hydra": job.hydra})))
        write_whole(stage.config, OmegaConf.to_yaml(_as_composed(job.config)))  # last: a folder that has it is begun
    return stored_config(stage)


def _as_composed(config: Config) -> Any:
    """As Hydra writes it of a run alone: the environment's name stands in hydra.yaml."""
    held: Any = OmegaConf.to_container(cast(DictConfig, config))
    held["env"].pop(NAME, None)
    return OmegaConf.create(held)


def folders(chain: RunFolder, config: Config) -> list[RunFolder]:
    """Of the stages: 1-adherence, 2-planning, ..."""
    return [RunFolder(chain / f"{number}-{name}") for number, name in enumerate(config.stage.order, start=1)]


def _is_own(key: str) -> bool:
    return key in OWN or key.startswith("stage.lengths.")


def _arguments(hydra: Mapping[str, Any]) -> Namespace:
    """The flags that say where a configuration was composed from: from places that this command line names, and no others."""
    place = {source["provider"]: source["path"] for source in hydra["runtime"]["config_sources"]}
    flags = {"--config-name": hydra["job"]["config_name"], "--config-path": place["main"]}
    flags |= {"--config-dir": place["command-line"]} if "command-line" in place else {}
    named = {path.resolve() for path in (*search_path.FOLDERS, *search_path.MAIN)}
    for flag in ("--config-path", "--config-dir"):
        if flag in flags and Path(flags[flag]).resolve() not in named:
            raise UserError(
                f"{flag}: was {flags[flag]} when the chain began, and has to be typed again: -cd {flags[flag]}"
            )
    if not re.fullmatch(search_path.NAME, flags["--config-name"]):
        raise UserError(f"--config-name: was {flags['--config-name']} when the chain began, which is no name")
    return parse([word for flag in flags.items() for word in flag])

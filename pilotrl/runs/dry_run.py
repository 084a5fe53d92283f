"""What a command line would start, and what it needs of each device: `--dry-run`. Nothing is written, and nothing is loaded.

Often asked where the runs will not be, on a laptop or a login node: what that machine lacks is said, and is not in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from omegaconf import DictConfig, OmegaConf

from pilotrl.cli import stage_chain
from pilotrl.cli.compose import composed_jobs, parse
from pilotrl.cli.preflight import prepare
from pilotrl.cli.stored_config import stored_config
from pilotrl.config.schema import Config
from pilotrl.models.model_info import Memory
from pilotrl.models.published import PUBLISHED, architecture
from pilotrl.runs.describe import as_dict
from pilotrl.runs.setup import memory
from pilotrl.store.redact import without_secrets
from pilotrl.types import NotHere

CARDS = (24, 40, 80, 141)
"""GB of memory that GPUs have: of an RTX 4090, an A100, an H100, an H200."""


def dry_run(argv: Sequence[str]) -> None:
    """Check a command line, and print of each of its runs the configuration, what starts, and the memory that it takes."""
    lacks: dict[str, None] = {}
    parsed = prepare(argv, lacks.setdefault)
    if parsed.folder:
        configs = [link.config for link in stage_chain.jobs_of(parsed.folder)] or [stored_config(parsed.folder)]
    else:
        jobs = composed_jobs(parse(argv))[0]
        configs = [part.config for job in jobs for part in stage_chain.stage_jobs(job.config, job.hydra) or [job]]
    for config in configs:
        print(OmegaConf.to_yaml(without_secrets(OmegaConf.to_container(cast(DictConfig, config), resolve=True))))
        print(starts(config))
        try:
            needs = memory(config)
        except NotHere:
            needs = memory(config, architecture(PUBLISHED[config.model.path], config.model.max_length))
            print(f"sizes of {config.model.path} as they were published, since it is not here:")
        print(needs)
        if needs.card is None and config.trainer.accelerator != "cpu":
            print(cards(needs))
    for line in lacks:
        print(f"this machine would not do: {line}")


def starts(config: Config) -> str:
    """One line: processes, what each holds, and what it plays of a step."""
    trainer, train = config.trainer, config.train
    ranks = trainer.devices * trainer.num_nodes
    episodes = train.tasks * train.group_size
    split = "a part of the weights" if trainer.strategy == "fsdp" and ranks > 1 else "the whole model"
    memory_gb = as_dict(config.engine).get("memory_gb")
    beside = f", and an engine with a copy of it and {memory_gb:g} GB for keys and values" if memory_gb else ""
    what = "adapters" if config.model.lora.rank else "all weights"
    return (
        f"starts {ranks} process{'es' * (ranks > 1)} ({trainer.num_nodes} x {trainer.devices}, {trainer.accelerator}), each with"
        f" {split}{beside}; a step plays {episodes} episodes, {-(-episodes // ranks)} a process at most, and trains {what}"
    )


def cards(needs: Memory) -> str:
    """One line: which cards have room for it."""
    room = {size: needs.needed / 1e9 <= size for size in CARDS}
    return "room on one card of " + ", ".join(f"{size} GB: {'yes' if fits else 'no'}" for size, fits in room.items())

"""`python -m pilotrl stage=adherence env=webshop`: compose, check, run. `--help` says what there is to choose."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pilotrl import CONF
from pilotrl.compose import DRY, composed_jobs, parse, stored, typed
from pilotrl.config import Config
from pilotrl.folder import RunFolder
from pilotrl.preflight import Order, as_it_was, prepare
from pilotrl.redact import without_secrets
from pilotrl.types import UserError

RUN = "PILOTRL_RUN"
"""Its folder, while a run lasts. The ranks that Lightning starts replay the command line, a sweep's as well: they look
here and not there."""

failed: list[UserError] | None = None
"""What users got wrong in the jobs of this process. None in a worker of a cluster, whose errors Hydra carries home."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line says. Returns the exit code: 2 after a line about each thing that the user got wrong."""
    global failed
    failed = []
    try:
        words = sys.argv[1:] if argv is None else argv
        if DRY in words:
            rehearse([word for word in words if word != DRY])
        else:
            obey(Order([], RunFolder(os.environ[RUN])) if RUN in os.environ else prepare(words))
    except UserError as error:
        failed.append(error)
    except KeyboardInterrupt:
        print("pilotrl: interrupted; resume=RUN_FOLDER goes on from the last checkpoint", file=sys.stderr)
        return 130
    for wrong in failed:
        print(f"pilotrl: {wrong}", file=sys.stderr)
    return 2 if failed else 0


def obey(order: Order) -> None:
    """Go on with the run of a folder, or let Hydra start jobs; its errors come back as they are, not wrapped."""
    if order.folder is not None:
        config, path = stored(order.folder), order.folder.path.absolute()
        as_it_was(order.folder)
        play(config, path)
    else:
        os.environ["HYDRA_FULL_ERROR"] = "1"
        sys.argv[1:] = order.argv
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(job)()


def rehearse(argv: Sequence[str]) -> None:
    """Check a command line, and print what each of its runs would be and what memory it needs. Writes no run folder."""
    order = prepare(argv)
    configs = [stored(order.folder)] if order.folder else [job.config for job in composed_jobs(parse(argv))[0]]
    from pilotrl.build import memory

    for config in configs:
        print(OmegaConf.to_yaml(without_secrets(OmegaConf.to_container(cast(DictConfig, config), resolve=True))))
        print(memory(config))


def job(config: DictConfig) -> None:
    """One run, alone or in a sweep, in a folder that Hydra has made. A mistake does not stop a sweep's other jobs."""
    try:
        play(typed(config), Path(HydraConfig.get().runtime.output_dir))
    except UserError as error:
        if failed is None:
            raise
        failed.append(error)


def play(config: Config, path: Path) -> None:
    """The run itself, unless it is finished."""
    if RunFolder(path).finished:
        print(f"{path}: this run is finished, nothing was changed; its result is in summary.json")
        return
    from pilotrl.run import run  # here and not above: whoever asks for help does not wait for torch

    os.environ[RUN] = str(path)
    try:
        run(config, path)
    finally:
        del os.environ[RUN]


if __name__ == "__main__":
    from pilotrl import __main__ as named  # under its own name a job is pickled by reference, and `failed` is one list

    sys.exit(named.main())

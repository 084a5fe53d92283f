"""`python -m pilotrl stage=adherence env=webshop`: compose, check, run. `--help` says what there is to choose."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pilotrl import CONF, PACKAGE
from pilotrl.cli import sweep_progress
from pilotrl.cli.compose import DRY, parse, trusted, typed
from pilotrl.cli.exit_codes import refused
from pilotrl.cli.preflight import ParsedCommand, as_it_was, prepare
from pilotrl.cli.signals import at_once, obey
from pilotrl.cli.slurm import Stopped, reasons
from pilotrl.cli.stored_config import stored_config
from pilotrl.cli.sweep import run_sweep
from pilotrl.config import search_path, trust
from pilotrl.config.schema import Config
from pilotrl.rollout.child import follow
from pilotrl.store.run_folder import RUN, RunFolder
from pilotrl.types import RunFailed, UserError

log = logging.getLogger(__name__)

failures: list[RunFailed] = []
"""Of this process: those end a command with another exit code than what a user got wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line says. Returns the exit code: 2 after a line about what the user got wrong, 1 after one about a
    run that failed, and after a sweep of which something is left to do, 128 + its number after a signal."""
    words = sys.argv[1:] if argv is None else argv
    if RUN in os.environ:
        follow(RunFolder(os.environ[RUN]).owner())
        return answer(words)
    return obey(lambda: answer(words), "resume=RUN_FOLDER goes on with a run that had begun")


def answer(words: Sequence[str]) -> int:
    """Like `main`, without an eye on signals."""
    reasons.clear()
    failures.clear()
    try:
        if DRY in words:
            from pilotrl.runs.dry_run import dry_run

            dry_run([word for word in words if word != DRY])
            return 0
        if RUN in os.environ:  # another rank of a run that has begun
            parse(words)
            return execute(ParsedCommand([], RunFolder(os.environ[RUN])))
        return execute(prepare(words))
    except BrokenPipeError:  # whoever read the output has seen enough, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return refused(error)


def execute(parsed: ParsedCommand) -> int:
    """Go on with the run of a folder, or let Hydra start jobs; its errors come back as they are, not wrapped."""
    if parsed.folder is not None:
        config, path = stored_config(parsed.folder), parsed.folder.path.absolute()
        as_it_was(parsed.folder)
        play(config, path)
        return 0
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = parsed.argv
    start = hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(job)
    if parsed.sweep is not None:
        return run_sweep(parsed.sweep, start, parsed.argv)
    start()
    for error in failures:
        raise error
    for reason in reasons.values():
        raise UserError(reason)
    return 0


def job(config: DictConfig) -> str | None:
    """One run, alone or in a sweep, in a folder that Hydra has made. Returns a line about what went wrong: Hydra would call
    it an error and stop, and a sweep's other jobs have nothing to do with it."""
    context = HydraConfig.get()
    swept, folder = context.mode == RunMode.MULTIRUN, Path(context.runtime.output_dir)
    number = context.job.num if swept else 0
    for source in context.runtime.config_sources:
        if source.provider == "command-line":  # -cd; a job of a cluster has not parsed it
            search_path.add(Path(source.path))
        elif source.provider == "main":
            search_path.MAIN.add(Path(source.path))
    trust.add(trusted(context.overrides.task))
    sweep_progress.announce(number)
    try:
        play(typed(config, context.runtime.choices), folder)
        sweep_progress.conclude(number, folder, None)
        return None
    except (UserError, Stopped, RunFailed) as error:
        reason = str(error)
        failures.extend([error] if isinstance(error, RunFailed) else [])
    except Exception as error:
        if not swept:
            raise
        log.exception("%s", folder)
        if os.environ.get("SLURM_PROCID", "0") != "0":
            sys.exit(1)  # so that SLURM ends the other ranks: they would wait for this one
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    reasons[number] = reason
    sweep_progress.conclude(number, folder, reason)
    return reason


def play(config: Config, path: Path) -> None:
    """The run itself, unless it is finished."""
    folder = RunFolder(path)
    begun = folder.begun
    if folder.finished:
        print(f"{path}: this run is finished, nothing was changed; its result is in summary.json")
        return
    from pilotrl.runs.run import run  # here and not above: whoever asks for help does not wait for torch

    if config.stage.order:
        from pilotrl.runs.progressive import run
    if begun and not folder.begun:  # while torch was loaded
        raise UserError(f"{path}: was removed while the run was starting; start it again")
    os.environ[RUN] = str(path)
    try:
        run(config, path)
    finally:
        del os.environ[RUN]


COMMANDS = ("audit", "bench", "doctor", "evaluate", "exact", "plans", "play", "report", "sync", "xray")
"""What `pilotrl NAME ...` runs: `python -m pilotrl.NAME ...`."""


def script() -> int:
    """`main`, of a process of its own. One of the other ranks ends at once: should its interpreter fail while gloo's threads are
    still there, Lightning would kill the run, whose first rank has its results yet to write."""
    rank = RUN in os.environ
    return at_once(main(), rank)


def console() -> int:
    """The script `pilotrl`: a run, or the command that its first word names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        return script()
    module = import_module(f"pilotrl.{name}.__main__" if (PACKAGE / name).is_dir() else f"pilotrl.{name}")
    done: int = module.main(sys.argv[2:])
    return at_once(done)


if __name__ == "__main__":
    from pilotrl import __main__ as named  # under its own name a job is pickled by reference, and there is one of it

    sys.exit(named.script())

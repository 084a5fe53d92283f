"""How far judged rewards can be trusted: `python -m pilotrl.audit RUN_FOLDER... [judges=[rule,openai]] [tasks=N]`.

Folders are of runs, chains or sweeps. `judges` are options of the group `judge`, which grade the evaluation episodes again;
set their keys by name, as in openai.model=qwen. `tasks`: only the first N tasks. Writes audit.json into each run folder.
Exit code: 0; 1 if an alarm was raised; 2 for invalid arguments.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from rich.console import Console

from pilotrl.analysis.terminal import guarded
from pilotrl.audit.adversarial import Judges
from pilotrl.audit.episodes import JUDGED, read
from pilotrl.audit.findings import audit
from pilotrl.audit.output import show
from pilotrl.cli.compose import composed_job, key_of, parse
from pilotrl.cli.evaluation_request import listed
from pilotrl.cli.exit_codes import ended
from pilotrl.cli.open_nodes import check_target, locate
from pilotrl.cli.signals import at_once
from pilotrl.cli.stored_config import read_elsewhere
from pilotrl.config import trust
from pilotrl.config.schema import Config
from pilotrl.envs import name_of, settings_of
from pilotrl.report.runs import find
from pilotrl.rewards import judge
from pilotrl.rewards.judge import Resolve
from pilotrl.store.redact import without_secrets
from pilotrl.store.run_folder import RunFolder, write_whole
from pilotrl.store.text import printable
from pilotrl.types import UserError

Settings = dict[str, dict[str, Any]]
"""Settings of judges, by name."""


@dataclass(frozen=True)
class ParsedArguments:
    """The parsed arguments: runs, judges, number of tasks."""

    runs: dict[str, RunFolder]
    judges: Settings
    tasks: int | None


def parsed_arguments(argv: Sequence[str]) -> ParsedArguments:
    """Parse the command line. Raises UserError for a folder without a run, invalid settings of a judge, and unknown keys."""
    given = parse(argv)
    places = [word for word in given.overrides if "=" not in word or Path(word).is_dir()]
    lines = [word for word in given.overrides if word not in places and key_of(word) != "trust"]
    if not places:
        raise UserError("no folder is given; python -m pilotrl.audit RUN_FOLDER... [judges=[rule,openai]]")
    names = listed(given, "judges") or ["rule"]
    for line in lines:
        if key_of(line) not in ("judges", "tasks") and key_of(line).partition(".")[0] not in names:
            raise UserError(
                f"{line}: is no key of an audit; there are judges, tasks, and {names[0]}.KEY of a judge named so"
            )
    return ParsedArguments(
        runs([Path(place).expanduser() for place in places]), judges(given, names, lines), tasks(given)
    )


def tasks(given: Namespace) -> int | None:
    """The value of `tasks=`; None for all."""
    values = listed(given, "tasks")
    if values and not re.fullmatch(r"[1-9]\d*", values[0]):
        raise UserError(f"tasks={values[0]}: must be a number above 0; leave it out for all")
    return int(values[0]) if values else None


def runs(places: Sequence[Path]) -> dict[str, RunFolder]:
    """The runs that have recorded episodes, by name; of a chain, its stages."""
    found: dict[str, RunFolder] = {}
    for name, folder in find(places).items():
        stages = sorted(path.parent.parent for path in folder.path.glob("*/.hydra/config.yaml"))
        found |= {f"{name}/{stage.name}": RunFolder(stage) for stage in stages} or {name: folder}
    recorded = {name: folder for name, folder in found.items() if folder.episodes.is_file()}
    if not recorded:
        raise UserError(f"{places[0]}: has no episodes yet; wait until it holds an episodes.jsonl")
    for name, folder in recorded.items():
        folder.check_inside()
        try:
            folder.check_writable()
        except UserError as error:
            raise UserError(
                f"{name}: cannot be written, and audit.json goes there; copy it to where you may write"
            ) from error
    return recorded


def judges(given: Namespace, names: Sequence[str], lines: Sequence[str]) -> Settings:
    """Settings of the judges, from their files and the command line. Builds each once, and probes the endpoints."""
    found: Settings = {}
    for name in names:
        if "," in name:
            raise UserError(f"judges={name}: write several in brackets, judges=[{name}]")
        own = [line.replace(name, "judge", 1) for line in lines if key_of(line).startswith(f"{name}.")]
        try:
            node = composed_job(given, [f"judge={name}", *own]).config.judge
            check_target("judge", node)
            found[name] = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
        except UserError as error:
            line = re.sub(r"^judge=", "judges=", str(error))
            raise UserError(re.sub(r"(?<![\w.])judge\.", f"{name}.", line)) from error
        try:
            made = judge.build(found[name], None)
            for endpoint in made.endpoints() if isinstance(made, judge.RemoteJudge) else ():
                endpoint.probe()
        except UserError as error:
            raise UserError(f"{name}.{error}") from error
    return found


def resolver(config: Config, env: str) -> Resolve | None:
    """The function that puts the actions of one of a run's environments into words; None if it needs none."""
    own = str(config.env["_target_"])
    target = own if name_of(config.env) == env else str(settings_of(env)["_target_"])
    locate("env._target_", target)
    return cast(Resolve | None, trust.beside("env._target_", target, "resolve"))


def audited(folder: RunFolder, name: str, config: Config, settings: Settings, tasks: int | None) -> dict[str, Any]:
    """The findings on a run, as in audit.json."""
    recorded = read(folder, config.stage.actor == "policy")
    resolves = {env: resolver(config, env) for env in recorded.envs}
    graders: dict[str, Judges] = {
        judge_name: {env: judge.build(own, resolve) for env, resolve in resolves.items()}
        for judge_name, own in settings.items()
    }
    about = {"schema": 1, "run": name, "stage": config.stage.name, "recorded_by": str(config.judge["_target_"])}
    rewarded = [term for term in JUDGED if term in config.stage.terms]
    return (
        about
        | {"judges": without_secrets(settings), "tasks": tasks}
        | audit(recorded, graders, resolves, rewarded, tasks)
    )


def command(argv: Sequence[str]) -> list[str]:
    """Audit every run; returns the alarms."""
    arguments, console, alarms = parsed_arguments(argv), guarded(Console(highlight=False)), list[str]()
    configs = {
        name: read_elsewhere(folder) for name, folder in arguments.runs.items()
    }  # read all of them before the first audit.json is written
    for name, folder in arguments.runs.items():
        with console.status(printable(f"{name}: {', '.join(arguments.judges)}")):
            found = audited(folder, name, configs[name], arguments.judges, arguments.tasks)
        write_whole(folder / "audit.json", json.dumps(found, indent=2) + "\n")
        console.rule(f"{name}: {found['stage']}", align="left")
        show(found, console)
        console.print(folder / "audit.json", markup=False, soft_wrap=True)
        alarms += found["alarms"]
    return alarms


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 if an alarm was raised; 2, with a one-line message, for invalid arguments."""
    alarms = list[str]()
    return ended(lambda words: alarms.extend(command(words)), argv, __doc__) or int(bool(alarms))


if __name__ == "__main__":
    sys.exit(at_once(main()))

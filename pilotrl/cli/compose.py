"""From a command line to the configuration of each of its jobs, composed as Hydra will; what is wrong becomes one line.

The text half: no torch.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from pilotrl import CONF
from pilotrl.cli import renamed, synonyms
from pilotrl.cli.choices import TOLD, check_groups, product
from pilotrl.cli.exit_codes import in_one_line
from pilotrl.cli.open_nodes import OPEN
from pilotrl.cli.suggestions import nearest
from pilotrl.cli.validate import config_keys, flat
from pilotrl.config import search_path, trust
from pilotrl.config.instantiate import NAME
from pilotrl.config.schema import Config
from pilotrl.store.redact import without_secrets
from pilotrl.types import UserError

DRY = "--dry-run"
"""Check and print, and start nothing: a flag of ours, which is taken out before Hydra sees the others."""

FREE = ("hydra", "reward.weights", "reward.terms", "stage.lengths", "model.template", "model.endpoint", "model.prompts")
"""Nodes whose keys are not those of a class of `pilotrl.config.schema`, beside the open ones."""

ConfigStore.instance().store(name="schema", node=Config)


# The command line.


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's own flags; flags and overrides may come in any order."""
    for word in argv:
        if not word.isprintable():
            raise UserError(
                f"{word.encode('unicode_escape').decode()}: holds a character that cannot be seen; leave it out"
            )
    parser = in_one_line(get_args_parser())
    arguments, unknown = parser.parse_known_intermixed_args(argv)
    flags = [DRY, *(flag for action in parser._actions for flag in action.option_strings)]
    for word in unknown:
        if word == DRY:
            raise UserError(f"{DRY}: only python -m pilotrl has it; leave it out")
        raise UserError(f"{word}: there is no such flag; the nearest is {nearest(word, flags)}")
    check_flags(arguments)
    if arguments.config_dir is not None:
        folder = Path(arguments.config_dir)
        if not (arguments.config_dir and folder.is_dir()):
            raise UserError(f"--config-dir {arguments.config_dir}: is no folder; name the one that holds your options")
        if option := search_path.shadowed(folder):
            raise UserError(f"--config-dir {folder}: {option} is an option of ours; give yours another name")
        search_path.add(folder)
    if arguments.config_path:
        search_path.MAIN.add(Path(arguments.config_path))
    trust.add(trusted(arguments.overrides))
    return arguments


def trusted(lines: Sequence[str]) -> list[str]:
    """The modules of `trust=[...]`, the only key that is read off the command line before anything is composed."""
    words = [line.partition("=")[2] for line in lines if key_of(line) == "trust"]
    names = [name.strip("'\" ") for name in words[-1].strip("[]").split(",")] if words else []
    if wrong := next((name for name in names if not re.fullmatch(r"\w+(\.\w+)*", name)), None):
        raise UserError(f"trust={words[-1]}: {wrong} is no name of a module; give some in brackets, trust=[my_module]")
    return [name for name in names if name]


def check_flags(arguments: argparse.Namespace) -> None:
    """Flags whose values Hydra would only miss in a traceback."""
    if arguments.config_name == "":
        raise UserError("--config-name: is empty; give the name of a file of conf/, or leave it out")
    if arguments.config_path is not None and not Path(arguments.config_path).is_dir():
        raise UserError(f"--config-path {arguments.config_path}: is no folder; -cd FOLDER adds your options to ours")
    if (arguments.resolve or arguments.package) and not (arguments.cfg or arguments.help):
        raise UserError("--resolve, --package: say how --cfg prints; add --cfg job, or leave them out")
    if arguments.experimental_rerun:
        raise UserError(
            f"--experimental-rerun {arguments.experimental_rerun}: runs go on with resume=RUN_FOLDER instead"
        )


def flags_of(arguments: argparse.Namespace) -> list[str]:
    """The words that name a folder of the user's own."""
    place = arguments.config_dir
    return (
        [] if place is None else ["-cd", "--config-dir", place, f"-cd={place}", f"--config-dir={place}", f"-cd{place}"]
    )


def key_of(line: str) -> str:
    """The key or group of an override, without what says how it is applied: `+env.x=1` -> `env.x`."""
    return line.split("=")[0].lstrip("+~").split("@")[0]


# Composition.


@dataclass(frozen=True)
class Job:
    """What a job gets, and Hydra's node beside it."""

    config: Config
    hydra: Any


def composed_jobs(arguments: argparse.Namespace) -> tuple[list[Job], bool]:
    """Every job of a command, and whether they are a sweep."""
    overrides: list[str] = arguments.overrides
    unswept = [str(o.input_line) for o in parsed(arguments, overrides) if not o.is_sweep_override()]
    fixed = composed_job(arguments, unswept)
    if not arguments.multirun and fixed.hydra.mode != RunMode.MULTIRUN:
        return [fixed if unswept == overrides else composed_job(arguments, overrides)], False
    if not fixed.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return [fixed], True  # what another sweeper will try is not known beforehand
    lines = [f"{key}={value}" for key, value in (fixed.hydra.sweeper.params or {}).items()] + overrides
    choices = product(parsed(arguments, lines))
    if len(choices) > TOLD:
        print(f"checking the {len(choices)} jobs of this sweep, before the first one starts", file=sys.stderr)
    jobs = [composed_job(arguments, list(choice)) for choice in choices]
    for number, job in enumerate(jobs):
        with open_dict(job.hydra):
            job.hydra.job.num = number
    return jobs, True


def parsed(arguments: argparse.Namespace, lines: Sequence[str]) -> list[Override]:
    try:
        with hydra_for(arguments) as loader:
            return list(OverridesParser.create(loader).parse_overrides(list(lines)))
    except HydraException as error:
        raise explained(error, lines) from error


def composed_job(arguments: argparse.Namespace, lines: list[str]) -> Job:
    """Compose one job as Hydra will; raises UserError for what does not compose, and for keys that nothing knows."""
    check_groups(lines)
    try:
        raw = composed(arguments, lines)
        refuse_unknown(raw, lines)
        if OmegaConf.select(raw, f"env.{NAME}") is not None:
            raise UserError(
                f"env.{NAME}: an environment has the name of its file; copy it to env/NAME.yaml in a folder for -cd"
            )
        job = Job(typed(raw, raw.hydra.runtime.choices), raw.hydra)
        resolved(job.config)
        return job
    except YAMLError as error:
        raise UserError(f"a file of the configuration cannot be read: {' '.join(str(error).split())}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explained(error, lines, arguments) from error


def composed(arguments: argparse.Namespace, lines: Sequence[str]) -> DictConfig:
    """One job's configuration with Hydra's node."""
    with hydra_for(arguments):
        return compose(arguments.config_name or "config", list(lines), return_hydra_config=True)


@contextlib.contextmanager
def hydra_for(arguments: argparse.Namespace) -> Iterator[ConfigLoader]:
    """Hydra, looking for files where `hydra.main` will."""
    search = create_config_search_path(str(Path(arguments.config_path or CONF).absolute()))
    if arguments.config_dir:
        extra = f"file://{Path(arguments.config_dir).absolute()}"
        search.prepend("command-line", extra, anchor=SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    theirs, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None  # inside a job there is one already
    try:
        yield Hydra.create_main_hydra2("pilotrl", search).config_loader
    finally:
        GlobalHydra.instance().hydra = theirs


def typed(config: DictConfig, choices: Mapping[str, Any] | None = None) -> Config:
    """What a job gets: the configuration with the types of `Config`, without Hydra's node. choices: of the groups' options; that
    of `env` is the environment's name."""
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    made = cast(Config, OmegaConf.merge(OmegaConf.structured(Config), task))
    held = cast(DictConfig, made)
    if OmegaConf.is_missing(held, "env") or OmegaConf.is_interpolation(held, "env") or not OmegaConf.is_dict(made.env):
        return made  # which is refused elsewhere
    chosen = str((choices or {}).get("env", "")).rpartition("/")[2]
    with open_dict(made.env):
        made.env.pop(NAME, None)  # a folder may be anybody's, and a name becomes part of paths
        if re.fullmatch(search_path.NAME, chosen):
            made.env[NAME] = chosen
    return made


def resolved(config: Config) -> dict[str, Any]:
    """Dotted keys and values, interpolations resolved; without secrets, which may change while a run lasts."""
    values = OmegaConf.to_container(cast(DictConfig, config), resolve=True)
    return flat(OmegaConf.create(without_secrets(values)))


# Errors in one line.


def culprit(message: str, lines: Sequence[str], arguments: argparse.Namespace | None) -> str:
    """Which word of a command line an error is about: that of the key which it names, or one that does not even compose alone;
    all of them where that shows nothing."""
    if named := re.search(r"full_key: (\S+)", message):
        key = named.group(1)
        return next((line for line in reversed(lines) if key_of(line) == key), key)
    for line in lines if arguments else ():
        try:
            OmegaConf.to_container(typed(composed(cast(argparse.Namespace, arguments), [line])), resolve=True)
        except (HydraException, OmegaConfBaseException, ValueError):
            return line
    return " ".join(lines)


def refuse_unknown(config: DictConfig, lines: Sequence[str]) -> None:
    """`+key=value` adds keys past the types. Those of the open nodes are held against their classes, elsewhere."""
    known = set(config_keys())
    free = tuple(f"{node}." for node in (*OPEN, *FREE))
    for key in flat(config):
        if key not in known and not key.startswith(free):
            raise unknown(key, lines, sorted(known))


def unknown(key: str, lines: Sequence[str], known: Sequence[str]) -> UserError:
    blamed = [line for line in lines if f"{key}.".startswith(f"{key_of(line)}.")]
    line = max(blamed, key=lambda line: len(key_of(line)), default=key)
    if new := renamed.new_name(key):
        return UserError(f"{line}: is called {new} now")
    if here := synonyms.meant(key):
        return UserError(f"{line}: there is no such key; here that is {here}")
    known = [other for other in known if other.startswith("hydra.") == key.startswith("hydra.")]
    return UserError(f"{line}: there is no such key; the nearest is {nearest(key, known)}")


def explained(error: Exception, lines: Sequence[str], arguments: argparse.Namespace | None = None) -> UserError:
    """One line for what Hydra or OmegaConf found wrong."""
    message, cause = str(error), error.__cause__
    if several := re.search(
        r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'(?: requires|\s+1\.)", message, re.S
    ):
        line = several.group(1)
        return UserError(f"{line}: are several values; add -m (--multirun) to run each, or quote a text: key='a,b'")
    if isinstance(error, OverrideParseException):
        return UserError(f"{error.override}: cannot be read; write key=value, and quote special characters: key='a, b'")
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(error.options)
        if here := synonyms.meant(option):
            return UserError(f"{group}={option}: there is no such option (of {options}); here that is {here}")
        return UserError(
            f"{group}={option}: there is no such option; the nearest is {nearest(option, error.options)} (of {options});"
            " -cd FOLDER adds yours"
        )
    if arguments and isinstance(error, MissingConfigException):
        return no_config(arguments)
    if arguments and isinstance(cause, ConfigKeyError | ConfigAttributeError):
        key = (re.findall(r"'(.+?)'", message) or [cause.full_key])[0]
        return unknown(key, lines, known_keys(arguments, lines))
    if isinstance(cause, OmegaConfBaseException):
        line = message.removeprefix("Error merging override ")
        if "does not support deletion" in str(cause):
            return UserError(f"{line}: cannot be left out; give it a value, {line.lstrip('~')}=...")
        return UserError(f"{line}: {str(cause).splitlines()[0]}; give a value of the right type")
    reason = " ".join(
        re.sub(r"\s*(full_key|reference_type|object_type)\S*[:=].*", "", message, flags=re.S).rstrip(". ").split()
    )
    return UserError(
        f"{culprit(message, lines, arguments)}: {reason}; write key=value with a key and a value of --help"
    )


def no_config(arguments: argparse.Namespace) -> UserError:
    """What `--config-name` should have been."""
    name, place = arguments.config_name, Path(arguments.config_dir or CONF)
    names = [path.stem for path in place.glob("*.yaml")] or ["config"]
    near = f"the nearest is {nearest(name, names)}, and --config-dir names another folder"
    return UserError(f"--config-name {name}: there is no {name}.yaml in {place}; {near}")


def known_keys(arguments: argparse.Namespace, lines: Sequence[str]) -> list[str]:
    """All that may stand before `=`: the groups, and the keys under the chosen options."""
    places = [CONF, Path(arguments.config_dir)] if arguments.config_dir else [CONF]
    groups = sorted(
        {path.name for place in places for path in place.iterdir() if path.is_dir()} - {"hydra", "__pycache__"}
    )
    config = composed(arguments, [line for line in lines if key_of(line).split("/")[0] in groups])
    return [*groups, *flat(config), "resume"]

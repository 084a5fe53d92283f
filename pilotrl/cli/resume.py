"""Going on with the run that a folder holds, by `resume=FOLDER` or by the command line that began it.

The folder may be somebody else's: what of it counts only where it is typed is held against what was typed, before anything in it
is used. The text half: no torch.
"""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from pilotrl.cli import stage_chain
from pilotrl.cli.compose import key_of, parsed
from pilotrl.cli.stored_config import began_in, stored_config, typed_words
from pilotrl.cli.typed_again import reaching, refuse
from pilotrl.cli.validate import check_classes, check_values
from pilotrl.config.schema import Config
from pilotrl.store import stored_yaml
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import UserError

ALONE = "resume= goes on with the run's own configuration; leave out everything else"


def resumed(arguments: Namespace, flags: Sequence[str]) -> RunFolder:
    """The folder of `resume=FOLDER`: the run goes on with its own configuration. Beside it may stand the folder of a user's own
    classes, `trust=`, and what of the configuration counts only where it is typed.

    Raises UserError for a value that is not the run's own."""
    name = next(line for line in arguments.overrides if key_of(line) == "resume").split("=", 1)[-1].strip("'\"")
    others = [line for line in arguments.overrides if key_of(line) not in ("resume", "trust")]
    folder = RunFolder(Path(name).expanduser())
    if flags or (others and not folder.begun):
        raise UserError(f"{' '.join([*flags, *others])}: {ALONE}")
    if not folder.begun:
        raise UserError(f"resume={name}: is not a run folder; give one that holds .hydra/config.yaml")
    own = stored_config(folder)
    for read in (began_in, typed_words):  # which the run will need: what is broken is said now
        read(folder)
    typed = check_own(own, parsed(arguments, others))
    if folder.finished:
        return folder
    own_options = ["-cd", arguments.config_dir] if arguments.config_dir else []
    command = shlex.join([*own_options, *arguments.overrides])
    for config in held_by(folder, typed, command):
        check_values(config)
        check_classes(config)
    folder.check_inside()
    folder.check_writable()
    folder.check_free()
    return folder


def check_own(config: Config, changes: Sequence[Override]) -> list[str]:
    """The keys of overrides. Raises UserError for one whose value is not that of the configuration."""
    held, wrong = cast(DictConfig, config), list[str]()
    written = dict(stored_yaml.leaves(OmegaConf.to_container(held)))
    closed = not any(stored_yaml.interpolated(OmegaConf.to_container(held)))  # nothing in it runs a resolver
    for override in changes:
        key, value = key_of(str(override.input_line)), override.value()
        known = [written[key], *([OmegaConf.select(held, key)] if closed else [])] if key in written else []
        if closed and OmegaConf.is_list(words := OmegaConf.select(held, key)):
            known = [OmegaConf.to_container(words)]
        wrong += [] if value in known else [str(override.input_line)]
    if wrong:
        raise UserError(f"{' '.join(wrong)}: {ALONE}")
    return [key_of(str(override.input_line)) for override in changes]


def held_by(folder: RunFolder, typed: Sequence[str], command: str) -> list[Config]:
    """The configurations in a folder, of a chain those of its stages too, as its command composes them and as they were begun.

    Raises UserError for what counts only where it is typed, and is not below the keys `typed`. command: what was typed."""
    configs = [stored_config(folder)]
    refuse(folder, reaching(folder, configs[0], typed), command)
    if configs[0].stage.order:
        configs += [link.config for link in stage_chain.jobs_of(folder)]
        begun = [stage for stage in stage_chain.folders(folder, configs[0]) if stage.begun]
        configs += [stored_config(stage) for stage in begun]
    for config in configs[1:]:
        refuse(folder, reaching(folder, config, typed), command)
    return configs


def check_resolvers(folder: RunFolder, held: Config, asked: Config) -> None:
    """What runs a resolver when it is read stands in a folder as it was typed just now. Runs none."""
    there, here = (cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, each))) for each in (held, asked))
    typed = dict(stored_yaml.leaves(here))
    if other := next((key for key, value in stored_yaml.interpolated(there) if typed.get(key) != value), None):
        raise UserError(f"{folder}: holds a run of another configuration ({other}); choose another folder")


def check_typed_again(folder: RunFolder, held: Sequence[Config], asked: Sequence[Config]) -> None:
    """What counts only where it is typed stands in a folder as it was typed just now, in every stage of a chain that was begun
    too."""
    stages = [stage for stage in stage_chain.folders(folder, held[0]) if stage.begun]
    begun = zip(map(stored_config, stages), asked[1:], strict=False)
    for there, here in (*zip(held, asked, strict=False), *begun):
        same: list[str] = []
        while more := {k for k, v in reaching(folder, here, same).items() if reaching(folder, there, same).get(k) == v}:
            same += more  # first what runs a resolver, then the rest
        refuse(folder, reaching(folder, there, same), "choose another folder, or add")
        check_classes(there)

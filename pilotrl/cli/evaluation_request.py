"""What `python -m pilotrl.evaluate` asks for: whose weights, which paradigms, which tasks; checked before anything is played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pilotrl import CONF
from pilotrl.cli.compose import composed_job, key_of, parse, parsed, resolved
from pilotrl.cli.machine import check_context
from pilotrl.cli.preflight import check_endpoints, check_engine, check_language_model, check_taught
from pilotrl.cli.stored_config import began_in, read_elsewhere
from pilotrl.cli.suggestions import nearest
from pilotrl.cli.typed_again import reaching, refuse
from pilotrl.cli.validate import check, flat
from pilotrl.config.instantiate import NAME
from pilotrl.config.schema import Config
from pilotrl.store.reading import check_policy
from pilotrl.store.run_folder import RunFolder, above
from pilotrl.types import UserError

Side = tuple[Config, RunFolder | None]
"""What plays a panel: the configuration, and the run whose weights play; None: a model behind an address does."""


ALIKE = ("env.", "panel.", "judge.", "model.prompts", "model.max_")
"""Keys that make an evaluation set the same."""


def evaluated(argv: Sequence[str]) -> list[Side]:
    """`checkpoint=RUN_FOLDER` or `checkpoint=[A,B]`, `agents=[...]`, and overrides beside them: each run's configuration with
    those changed, under each paradigm; without `agents`, its own. Or `model=openai` and overrides of a run that is none.

    Raises UserError for a folder without weights, for another model or stage, for sides that would not play the same
    panel, and for whatever `prepare` would refuse.
    """
    arguments = parse(argv)
    given = {key: listed(arguments, key) for key in ("checkpoint", "agents")}
    lines: list[str] = [line for line in arguments.overrides if key_of(line) not in given]
    if given["agents"] and (agent := next((line for line in lines if key_of(line) == "agent"), None)):
        raise UserError(f"{agent}: agents= names all paradigms; leave {agent} out")
    paradigms = [[f"agent={name}"] for name in given["agents"]] or [[]]
    if not given["checkpoint"]:
        return [elsewhere(arguments, [*lines, *one]) for one in paradigms]
    changes = [sorted(parsed(arguments, lines + one), key=lambda o: "." in o.key_or_group) for one in paradigms]
    sides = [side(RunFolder(Path(name).expanduser()), change) for name in given["checkpoint"] for change in changes]
    for other in sides[1:]:
        check_alike(sides[0], other)
    if len(sides) == 1:  # several are compared by their own plans
        check_taught(sides[0][0], trains=False)
    return sides


def listed(arguments: Any, key: str) -> list[str]:
    """The values of a key that takes one, as it is written, or several in brackets."""
    for line in reversed([line for line in arguments.overrides if key_of(line) == key]):
        text = line.split("=", 1)[-1]
        several = text.startswith("[") and parsed(arguments, [line])[0].value()
        return [str(value) for value in several] if isinstance(several, list) else [text]
    return []


def elsewhere(arguments: Any, lines: list[str]) -> Side:
    """A model behind an address."""
    config = composed_job(arguments, lines).config
    if config.model.endpoint is None:
        raise UserError("checkpoint: has no value; give the folder of a run, checkpoint=RUN_FOLDER, or a model=openai")
    check(config)
    check_endpoints(config)
    return config, None


def side(folder: RunFolder, changes: Sequence[Override]) -> Side:
    """A run's own configuration with changes."""
    if not folder.begun or not folder.policy.is_dir():
        lacks = "policy/" if folder.begun else ".hydra/config.yaml"
        why = f"is not the folder of a finished run, it lacks {lacks}"
        raise UserError(f"checkpoint={folder}: {why}; give one that holds both, or several: [A,B]")
    keys = [key_of(str(override.input_line)) for override in changes]
    config = read_elsewhere(folder, keys)
    if (began_in(folder) / config.root).resolve() not in above(folder.path):  # a folder does not say where others write
        config.root = OmegaConf.load(CONF / "config.yaml").root
    model, roles = config.model.name, config.model.roles
    for override in changes:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: are several values, and an evaluation has one; give one")
        change(config, str(override.input_line), override.value())
    try:
        resolved(config)
    except OmegaConfBaseException as error:
        line = " ".join(str(override.input_line) for override in changes)
        raise UserError(f"{line}: {str(error).splitlines()[0]}; give a value") from error
    if config.model.name != model:
        raise UserError(f"model={config.model.name}: checkpoint={folder} is of model={model}; leave model out")
    if config.model.roles != roles:
        raise UserError(
            f"model.roles={config.model.roles}: checkpoint={folder} has roles that are {roles}; leave it out"
        )
    found = reaching(folder, config, [*keys, "tracking"])
    refuse(folder, found, f"checkpoint={folder}", instead(found))
    check(config)
    check_policy(folder.policy)
    check_language_model(config)
    check_engine(config)
    check_endpoints(config)
    check_context(config)
    return config, folder


def instead(found: Mapping[str, Any]) -> str:
    """What may be typed in place of an API model, for which nothing is sent."""
    others = {"judge": "judge=rule", "teacher": "teacher=expert"}
    words = " ".join(other for node, other in others.items() if any(key.startswith(f"{node}.") for key in found))
    return words and f", or {words}"


def check_alike(one: Side, other: Side) -> None:
    """Two sides play the same tasks in the same way, with the same tokens."""
    (config, folder), (theirs, place) = one, other
    here, there = resolved(config), resolved(theirs)
    for key in dict.fromkeys([*here, *there]):
        if key.startswith(ALIKE) and here.get(key) != there.get(key):
            values = f"{key} is {there.get(key)} there and {here.get(key)} in {folder}"
            raise UserError(f"checkpoint={place}: {values}; give both the same, as in {key.split('.')[0]}=...")
    if len({(run.policy / "tokenizer.json").read_bytes() for run in (folder, place) if run}) > 1:
        raise UserError(f"checkpoint={place}: its tokenizer is not that of {folder}; compare checkpoints of one model")


def change(config: Config, line: str, value: Any) -> None:
    """Apply one override to a configuration that is composed already: a group's option, or a key's value."""
    key, held = key_of(line), cast(DictConfig, config)
    if key == f"env.{NAME}":
        raise UserError(f"{line}: an environment has the name of its file; leave it out")
    if key in held and (CONF / key).is_dir() and key != "stage":
        OmegaConf.update(held, key, composed_job(parse([]), [line]).config[key], merge=False)  # type: ignore[index]
    elif key in flat(config) and not key.startswith("stage."):
        try:
            OmegaConf.update(held, key, value)
        except OmegaConfBaseException as error:
            raise UserError(f"{line}: {str(error).splitlines()[0]}") from error
    else:
        known = [*flat(config), *(path.name for path in CONF.iterdir() if path.name in held and path.name != "stage")]
        raise UserError(f"{line}: is no key of an evaluation; the nearest is {nearest(key, known)}")

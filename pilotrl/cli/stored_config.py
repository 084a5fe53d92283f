"""What a run folder holds of the command that began it: its configuration, what was typed, and where.

The folder may be somebody else's, or of an older version. The text half: no torch.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pilotrl.cli import renamed
from pilotrl.cli.compose import typed
from pilotrl.config.schema import Config
from pilotrl.store import stored_yaml
from pilotrl.store.reading import read_yaml, read_yaml_list, unreadable
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import UserError

ELSEWHERE = "put a whole copy of it back, or start a run in a new folder"
"""What helps where the configuration of a run is broken."""


def stored_config(folder: RunFolder) -> Config:
    """The configuration that a run folder holds, as it stands: nobody but the command that began the run resolves a value of it
    before `typed_again` was asked. Raises UserError when it cannot be read."""
    try:
        held = plain_config(folder)
        if renamed.is_old(held):
            raise UserError(
                f"{folder}: was begun before keys were renamed, and cannot go on; start a new run, parent={folder}"
            )
        config = typed(OmegaConf.create(held), choices(folder))
        values = stored_yaml.leaves(OmegaConf.to_container(cast(DictConfig, config)))
        if lost := sorted(key for key, value in values if value == "???"):
            raise unreadable(folder.config, f"is cut off, or of an older version: {lost[0]} is not in it", ELSEWHERE)
        return config
    except (ValueError, AttributeError, OmegaConfBaseException) as error:
        line = str(error).splitlines()[0]
        raise unreadable(folder.config, f"cannot be read ({line})", ELSEWHERE) from error


def plain_config(folder: RunFolder) -> dict[str, Any]:
    """What the configuration of a run says, of whatever version. Raises UserError where it is broken or cut off."""
    held = read_yaml(folder.config, ELSEWHERE, resolvers=True)
    if "seed" not in held:  # among its last lines, in every version
        raise unreadable(folder.config, "is cut off, seed is not in it", ELSEWHERE)
    return cast(dict[str, Any], OmegaConf.to_container(held))


def hydra_node(folder: RunFolder) -> dict[str, Any]:
    """What Hydra noted of the command that began a run, interpolations as they are written; empty where nobody knows. Raises
    UserError where its file is broken."""
    if not folder.hydra.exists():
        return {}
    remedy = "put a whole copy of it back, or delete it: relative paths then count from where you are"
    held = OmegaConf.to_container(read_yaml(folder.hydra, remedy, resolvers=True))
    node = held.get("hydra") if isinstance(held, dict) else None
    if not isinstance(node, dict) or not isinstance(node.get("runtime"), dict) or "cwd" not in node["runtime"]:
        raise unreadable(folder.hydra, "is cut off, hydra.runtime.cwd is not in it", remedy)
    return cast(dict[str, Any], node)


def choices(folder: RunFolder) -> dict[str, Any]:
    """The options of the groups that the command chose which began a run; none where nobody knows."""
    with suppress(UserError):  # whoever needs more of the file says what is wrong with it
        chosen = hydra_node(folder).get("runtime", {}).get("choices")
        return chosen if isinstance(chosen, dict) else {}
    return {}


def typed_words(folder: RunFolder) -> list[str]:
    """The overrides of the command that began a run, as they were typed; none where nobody knows. Raises UserError where their
    file is broken."""
    path = folder.config.parent / "overrides.yaml"
    words = read_yaml_list(path, "put a whole copy of it back, or delete it") if path.exists() else []
    return list(map(str, words))


def began_in(folder: RunFolder) -> Path:
    """The working folder of the command that began a run: where relative paths in its configuration count from."""
    return Path(str(hydra_node(folder).get("runtime", {}).get("cwd", ".")))


def read_elsewhere(folder: RunFolder, typed_keys: Collection[str] = ()) -> Config:
    """As stored_config, for a command in any working folder: a parent is where it was then, if it is still there. A run that was
    begun before keys were renamed is read with the names of today.

    What runs a resolver, such as `${oc.env:HOME}`, may stand only below keys that are typed: the folder may be anybody's."""
    try:
        config = typed(OmegaConf.create(renamed.translated(plain_config(folder))), choices(folder))
    except (ValueError, AttributeError, OmegaConfBaseException):
        config = stored_config(folder)  # which says what is wrong
    for key, value in stored_yaml.interpolated(OmegaConf.to_container(cast(DictConfig, config))):
        if not any(f"{key}.".startswith(f"{name}.") for name in typed_keys):
            raise UserError(
                f"{folder}: its {key} is {value}, and a folder may only refer to its own keys; type {key}=..."
            )
    try:
        OmegaConf.to_container(cast(DictConfig, config), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder}: its configuration refers to what is not there ({line})") from error
    if config.parent is not None and (there := began_in(folder) / config.parent).is_dir():
        config.parent = str(there)
    return config

"""What a run folder may not decide by itself: where something is sent, with which key, which files outside of it are opened.

A folder may be somebody else's. Such values of its configuration count only where the command line says them again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pilotrl.cli.stored_config import began_in
from pilotrl.config.schema import Config
from pilotrl.store.redact import hide_credentials
from pilotrl.store.run_folder import RunFolder
from pilotrl.store.stored_yaml import interpolated, leaves
from pilotrl.tracking.mlflow_client import absolute, is_default
from pilotrl.types import UserError

REACHES = re.compile(
    r".*\b(\w+_)?(address|cache|credentials?|data_dir|host|hostname|port|proxy|server|uri|url)"
    r"|env(\.options\.[\w-]+)?\.(id|kwargs\..*|command|variables|tasks_file|check|taskset|(config|held_out)\..*)",
    re.IGNORECASE,
)
"""Keys of addresses, credentials and files, what Gymnasium and verifiers make an environment from, and what starts an MCP server
and scores its episodes; beside them every value with ://."""
WORDS = re.compile(r"(env(\.options\.[\w-]+)?\.(command|variables))\.\d+")
"""Items of lists that are typed as a whole."""
PLAIN = re.compile(r"[\w./:@%+-]+")
"""What Hydra and a shell read as it stands."""


def reaching(folder: RunFolder, config: Config, typed: Collection[str] = ()) -> dict[str, Any]:
    """Values by dotted key that have to be typed, less those below the keys that were. tracking.uri is none of them where it is
    the default one.

    Raises UserError where interpolations lead nowhere. What runs a resolver is returned as it is written, and not run."""
    held = OmegaConf.to_container(cast(DictConfig, config))
    missing = {key: value for key, value in interpolated(held) if not _below(key, typed)}
    if missing:
        return missing
    try:
        held = OmegaConf.to_container(cast(DictConfig, config), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder}: its configuration cannot be read ({line}); start a run in a new folder") from error
    every = dict[str, Any]()
    for key, value in leaves(held):
        if item := WORDS.fullmatch(key):
            every[item[1]] = [*every.get(item[1], []), value]
        else:
            every[key] = value
    found = {key: value for key, value in every.items() if value not in (None, "", "off") and not _below(key, typed)}
    begun = began_in(folder)  # where a relative path of it counts from
    if is_default(absolute(str(found.get("tracking.uri")), begun if begun.is_dir() else Path()), folder.path):
        found.pop("tracking.uri", None)
    return {
        key: value
        for key, value in found.items()
        if not key.endswith("_target_") and (REACHES.fullmatch(key) or "://" in str(value))
    }


def refuse(folder: RunFolder, found: Mapping[str, Any], command: str, instead: str = "") -> None:
    """Raises UserError, which says what to type, where something was found. command: what the words are added to."""
    if found:
        told = ", ".join(f"{key}={show(value)}" for key, value in found.items())
        words = " ".join(word(key, value) for key, value in found.items())
        raise UserError(
            f"{folder}: its configuration says {told}; of a folder this counts only where you type it: {command} {words}{instead}"
        )


def word(key: str, value: Any) -> str:
    """An override, as a shell takes it."""
    text = hide_credentials(str(value))
    if PLAIN.fullmatch(text) or not isinstance(value, str):
        return shlex.quote(f"{key}={text}")
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return shlex.quote(f"{key}={text}" if "${" in text else f"{key}='{quoted}'")


def show(value: Any) -> str:
    """A value on one line."""
    return hide_credentials(" ".join(str(value).split()))[:200]


def _below(key: str, typed: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in typed)

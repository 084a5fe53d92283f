"""Where options of a group are looked for: `conf/`, and the folders that a command line names with `--config-dir`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pilotrl import CONF
from pilotrl.types import UserError

FOLDERS: list[Path] = [CONF]
"""First those of the user, then ours."""
MAIN = {CONF}
"""Where a command line lets the main configuration lie (`--config-path`)."""
NAME = r"\w[\w.-]*"
"""What is a name, and never a path."""


def add(folder: Path) -> None:
    """A folder of the user's own: its options can be chosen, and the Python files beside them be imported."""
    path = folder.absolute()
    if path not in FOLDERS:
        FOLDERS.insert(0, path)
    if str(path) not in sys.path:
        sys.path.append(str(path))  # last: a file of theirs called random.py replaces nothing


def find(group: str, name: str) -> Path | None:
    """The file of `group=name`, where there is one. A name that is a path leads nowhere."""
    if not re.fullmatch(NAME, name):
        return None
    return next((path for folder in FOLDERS if (path := folder / group / f"{name}.yaml").is_file()), None)


def settings(group: str, name: str) -> dict[str, Any]:
    """What the file of `group=name` says, over what the files of its `defaults` say: of its own group or of groups below it,
    but not what they place elsewhere (`rule@members.rule`).

    Raises UserError for an option without a file."""
    if (path := find(group, name)) is None:
        raise UserError(f"{group}={name}: there is no such file, and the defaults of another one name it")
    held: Any = OmegaConf.to_container(OmegaConf.load(path))
    below = []
    for choice in held.pop("defaults", []):
        if isinstance(choice, dict):
            below += [settings(f"{group}/{sub}", option) for sub, option in choice.items()]
        elif choice != "_self_" and "@" not in choice:
            below.append(settings(group, choice))
    return {key: value for one in (*below, held) for key, value in one.items()}


def shadowed(folder: Path) -> str | None:
    """An option of a folder, as group=name, that has the name of one of ours, which would be taken in its place."""
    ours = (path.relative_to(CONF) for path in sorted(CONF.glob("*/**/*.yaml")))
    return next((f"{path.parent}={path.stem}" for path in ours if (folder / path).is_file()), None)


def options(group: str) -> list[str]:
    """Names that a group knows, in order."""
    return sorted({path.stem for folder in FOLDERS for path in (folder / group).glob("*.yaml")})

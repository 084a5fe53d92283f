"""Where options of a group are looked for: `conf/`, and the folders that a command line names with `--config-dir`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pilotrl import CONF

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
    """What the file of `group=name` says, over what the files of the options that it chooses in its own groups say."""
    held: Any = OmegaConf.to_container(OmegaConf.load(find(group, name) or Path()))
    chosen = [choice for choice in held.pop("defaults", []) if isinstance(choice, dict)]
    below = [settings(f"{group}/{sub}", option) for choice in chosen for sub, option in choice.items()]
    return {key: value for one in (*below, held) for key, value in one.items()}


def shadowed(folder: Path) -> str | None:
    """An option of a folder, as group=name, that has the name of one of ours, which would be taken in its place."""
    ours = (path.relative_to(CONF) for path in sorted(CONF.glob("*/**/*.yaml")))
    return next((f"{path.parent}={path.stem}" for path in ours if (folder / path).is_file()), None)


def options(group: str) -> list[str]:
    """Names that a group knows, in order."""
    return sorted({path.stem for folder in FOLDERS for path in (folder / group).glob("*.yaml")})

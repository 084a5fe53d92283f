"""Whose classes may be made: ours, those beside the options that `-cd` names, and those of modules named by `trust=[...]`.

What is trusted is typed. A run folder, whose configuration names classes too, adds nothing to it, and a module that is not
trusted is not imported.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pilotrl.config import search_path
from pilotrl.types import UserError

OURS = "pilotrl"
MODULES: set[str] = set()
"""Named by `trust=` on this command line."""


def add(modules: Iterable[str]) -> None:
    """Trust modules and what is below them; they may lie in the working folder."""
    MODULES.update(modules)
    if MODULES and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def check(key: str, target: str, module: str) -> None:
    """Raises UserError, which names `key`, for a module that nobody on this command line has named."""
    top = module.partition(".")[0]
    known = any(f"{module}.".startswith(f"{name}.") for name in (OURS, *MODULES))
    if not known and not _beside_options(top):
        how = f"its folder is named by -cd FOLDER, or trust=[{module}] is typed"
        raise UserError(f"{key}={target}: is not trusted and was not imported; a class counts where {how}")


def find(key: str, target: str) -> type:
    """The class of a dotted path. Raises UserError for a module that is not trusted, and for what is no class; whatever the
    import raises is raised."""
    module, _, name = target.rpartition(".")
    check(key, target, module)
    found = getattr(import_module(module), name)
    if not inspect.isclass(found):
        raise UserError(f"{key}={target}: is not a class; give the dotted path of a class")
    if module.partition(".")[0] == OURS != found.__module__.partition(".")[0]:
        raise UserError(f"{key}={target}: is no class of {OURS}; give the path of the module that it was written in")
    return found


def beside(key: str, target: str, name: str) -> Any:
    """What the module of a class calls `name`, or None."""
    check(key, target, module := target.rpartition(".")[0])
    return getattr(import_module(module), name, None)


def targets(settings: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every `_target_` at any depth of plain settings, lists too, with its dotted key."""
    inside = enumerate(settings) if isinstance(settings, list) else ()
    for name, value in settings.items() if isinstance(settings, dict) else inside:
        here = f"{key}.{name}" if key else str(name)
        if name == "_target_":
            yield here, str(value)
        else:
            yield from targets(value, here)


def _beside_options(top: str) -> bool:
    """Whether a module lies in a folder of the user's own; one of the same name that Python would find first is another."""
    folders = {folder.resolve() for folder in search_path.FOLDERS[:-1]}
    try:
        spec = find_spec(top) if folders and top else None
    except ValueError:  # a module that was run, not imported
        return False
    if spec is None:
        return False
    if spec.submodule_search_locations is not None:
        places = [Path(place).parent for place in spec.submodule_search_locations]
    else:
        places = [Path(spec.origin or "").parent]
    return bool(places) and all(place.resolve() in folders for place in places)

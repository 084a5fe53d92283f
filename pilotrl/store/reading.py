"""How a file of a run folder is opened: one that is not as it was written becomes one line with its name and a remedy. No torch.

A run folder is data, and may be somebody else's: nothing of it is executed or unpickled, and only what was checked is used.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pilotrl.store import stored_yaml
from pilotrl.types import UserError

RESTORE = "put a whole copy of it back, or start a new run"
"""What helps where a file cannot be made anew."""
WEIGHTS = {"adapter_config.json": "adapter_model.safetensors", "config.json": "model.safetensors"}
"""In a folder that `from_pretrained` loads: the settings, and the weights beside them."""


def unreadable(path: Path, why: str, remedy: str = RESTORE) -> UserError:
    """The line about a file: what is wrong with it (words that follow its name), and what to do."""
    return UserError(f"{path}: {why}; {remedy}")


def reason(error: Exception) -> str:
    """What is wrong with a file that gave this error."""
    if isinstance(error, OSError) and error.errno is not None:
        known = {errno.ENOENT: "is not there", errno.ENOTDIR: "is not there", errno.EISDIR: "is a folder"}
        return known.get(error.errno, f"cannot be read ({error.strerror})")
    line = " ".join(str(error).split())
    return f"is cut off or broken ({line[:120] or type(error).__name__})"


def read_bytes(path: Path, remedy: str = RESTORE) -> bytes:
    """Raises UserError where there is no such file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, reason(error), remedy) from error


def read_json(path: Path, remedy: str = RESTORE) -> dict[str, Any]:
    """The object that a JSON file holds. Raises UserError for anything else."""
    try:
        held = json.loads(read_bytes(path, remedy))
    except (ValueError, RecursionError) as error:
        raise unreadable(path, reason(error), remedy) from error
    if not isinstance(held, dict):
        raise unreadable(path, "is no JSON object", remedy)
    return held


def read_lines(
    path: Path, remedy: str = RESTORE, wanted: Callable[[str], bool] = lambda line: True
) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, without parsing those that are not wanted. Raises UserError for a line that is
    none, and for a last line without an end."""
    try:
        with open(path, "rb") as lines:
            for number, raw in enumerate(lines, start=1):
                try:
                    line = raw.decode()
                    held = json.loads(line) if wanted(line) else {}
                except (ValueError, RecursionError) as error:
                    raise unreadable(path, f"line {number} {reason(error)}", remedy) from error
                if not isinstance(held, dict) or not line.endswith("\n"):
                    raise unreadable(path, f"line {number} is cut off or broken", remedy)
                if held:
                    yield held
    except OSError as error:
        raise unreadable(path, reason(error), remedy) from error


def read_yaml(path: Path, remedy: str = RESTORE, resolvers: bool = False) -> DictConfig:
    """The mapping that a YAML file holds. Raises UserError for anything else, and for an empty one.

    resolvers: what would run a resolver when it is read may stand in it."""
    held = _yaml(path, remedy, resolvers)
    if not isinstance(held, DictConfig) or not held:
        raise unreadable(path, "is empty, or no mapping", remedy)
    return held


def read_yaml_list(path: Path, remedy: str = RESTORE) -> list[Any]:
    """The list that a YAML file holds. Raises UserError for anything else: an empty file is no list, and where the last line
    has no end others are lost."""
    held = _yaml(path, remedy, resolvers=True)
    if not isinstance(held, ListConfig) or not read_bytes(path, remedy).endswith(b"\n"):
        raise unreadable(path, "is empty, cut off, or no list", remedy)
    return list(held)


def _yaml(path: Path, remedy: str, resolvers: bool) -> Any:
    try:
        return stored_yaml.load(path, resolvers)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise unreadable(path, reason(error), remedy) from error


def check_tensors(path: Path, remedy: str = RESTORE) -> None:
    """Raises UserError for a safetensors file that is not complete."""
    from safetensors import SafetensorError, safe_open  # here and not above: it is a tensor library

    try:
        with open(path, "rb"), safe_open(path, "np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(path, reason(error), remedy) from error


def check_policy(policy: Path) -> None:
    """Raises UserError for a `policy/` of which a file that loading it needs is missing or broken: its tokenizer, and settings
    and weights as safetensors, of each role where each has its own."""
    remedy = "restore it, or train that run again"
    if not policy.is_dir():
        raise unreadable(policy, "is not there", remedy)
    read_json(policy / "tokenizer.json", remedy)
    own = [policy / role for role in ("planner", "executor") if (policy / role).is_dir()]
    for place in own or [policy]:
        settings = next((name for name in WEIGHTS if (place / name).exists()), None)
        if settings is None:
            raise unreadable(place, f"holds neither {' nor '.join(WEIGHTS)}", remedy)
        whole, index = place / WEIGHTS[settings], place / f"{WEIGHTS[settings]}.index.json"
        parts = read_json(index, remedy).get("weight_map", {}) if index.exists() else {}
        for path in {place / Path(str(name)).name for name in parts.values()} or {whole}:
            check_tensors(path, remedy)
    for path in policy.rglob("*.json"):
        read_json(path, remedy)

"""Prompt templates, one text file each, in sets: `short` for small models, `full` for chat models, and those for APIs.

`judge` and `teacher` hold the prompts of API models in these roles, `endpoint` the request to repeat an unreadable reply.
`context` builds token ids from templates and history; `parsing` reads the replies.
May import `types` alone. Never here: tensors; the tokenizer is given.
"""

from __future__ import annotations

from pathlib import Path

from pilotrl.types import UserError

FOLDER = Path(__file__).parent


def load(name: str, plans: str = "always") -> dict[str, str]:
    """Templates of one set by file name. `plans` is agent.plans: only with `asked` is `replan` among them.

    Raises UserError for a set that does not exist.
    """
    files = sorted((FOLDER / name).glob("*.txt"))
    if not files:
        raise UserError(f"model.prompts={name}: there is no such set of prompts; there are {', '.join(sets())}")
    used = [path for path in files if path.stem != "replan" or plans == "asked"]
    return {path.stem: path.read_text(encoding="utf-8").rstrip("\n") for path in used}


def sets() -> list[str]:
    """Names of the sets for the policy."""
    return sorted(path.parent.name for path in FOLDER.glob("*/act.txt"))

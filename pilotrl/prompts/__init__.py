"""The words of the prompts, one text file each. A folder is a set: `short` for small models and `full` for chat models that
play; what a judge and a teacher are asked, and what an endpoint is told whose reply cannot be read, lies in folders of theirs.

`context` puts them together with what happened, as token ids; `parsing` reads the replies.
May import `types` alone. Never here: tensors; the tokenizer is given.
"""

from __future__ import annotations

from pathlib import Path

from pilotrl.types import UserError

FOLDER = Path(__file__).parent


def load(name: str, plans: str = "always") -> dict[str, str]:
    """Prompts of one set by file name; `replan` only for who is asked whether to (`plans` is what agent.plans may be).

    Raises UserError for a set that does not exist.
    """
    files = sorted((FOLDER / name).glob("*.txt"))
    if not files:
        raise UserError(f"model.prompts={name}: there is no such set of prompts; there are {', '.join(sets())}")
    heard = [path for path in files if path.stem != "replan" or plans == "asked"]
    return {path.stem: path.read_text(encoding="utf-8").rstrip("\n") for path in heard}


def sets() -> list[str]:
    """Names of those for a model that plays."""
    return sorted(path.parent.name for path in FOLDER.glob("*/act.txt"))

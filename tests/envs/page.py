"""The pages that show an environment of one's own, followed to the letter."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent


def written(page: Path, folder: Path, name: str = "guess") -> Path:
    """The page's Python file and YAML file of an environment, in a folder."""
    blocks = [dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", page.read_text(), re.M)]
    (code,) = [block for block in blocks if f"class {name.title()}:" in block]
    (values,) = [block for block in blocks if f"_target_: {name}." in block]
    (folder / "env").mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    (folder / "env" / f"{name}.yaml").write_text(values)
    return folder

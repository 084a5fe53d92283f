"""The page on environments of one's own, followed to the letter."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent


def written(page: Path, folder: Path) -> Path:
    """The page's Python file and YAML file, in a folder."""
    blocks = [dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", page.read_text(), re.M)]
    (code,) = [block for block in blocks if block.lstrip().startswith("class Guess")]
    (values,) = [block for block in blocks if "_target_: guess." in block]
    (folder / "env").mkdir()
    (folder / "guess.py").write_text(code)
    (folder / "env" / "guess.yaml").write_text(values)
    return folder

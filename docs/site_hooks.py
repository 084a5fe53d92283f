"""What mkdocs calls while it builds the site: it adds pages from outside docs/, and makes links between the two kinds fit.

In the repository the links of README.md (`docs/metrics.md`), of docs/ (`../experiments/orders.md`) and of experiments/
(`../docs/nano.md`) lead where they should. In the site docs/ is the root, README.md and its neighbours stand there too, and
experiments/ is a folder below.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff")
"""Files of the root that the site has."""
SHOWN = (".md", ".png", ".svg")
"""Of experiments/."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name in BESIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for path in sorted((ROOT / "experiments").iterdir()):
        if path.suffix in SHOWN:
            files.append(File.generated(config, f"experiments/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they have to be in the site."""
    uri = page.file.src_uri
    if uri in BESIDE:
        return re.sub(r"\]\(docs/", "](", markdown)
    if uri.startswith("experiments/"):
        return re.sub(r"\]\(\.\./docs/", "](../", markdown)
    return re.sub(r"\]\(\.\./", "](", markdown)

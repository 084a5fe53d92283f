"""What mkdocs calls while it builds the site: it adds pages from outside docs/, and makes their links fit.

In the repository the links of README.md (`docs/metrics.md`), of docs/ (`../experiments/orders.md`) and of experiments/
(`../docs/nano.md`) lead where they should. In the site docs/ is the root, README.md and its neighbours stand there too, and
experiments/ is a folder below. A link to a file of the repository that the site does not have becomes plain text; one that leads
nowhere is left for mkdocs to refuse.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, relpath

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


def source(uri: str) -> Path:
    """The file of the repository that a page or picture of the site is."""
    return ROOT / uri if uri in BESIDE or uri.startswith("experiments/") else ROOT / "docs" / uri


def fitted(link: re.Match[str], uri: str, known: dict[Path, str]) -> str:
    """A link of the page `uri` as it has to be in the site; `known` are the site's files by those of the repository."""
    words, target = link.groups()
    path, _, anchor = target.partition("#")
    if not path or ":" in path:
        return link[0]
    file = (source(uri).parent / path).resolve()
    if file in known:
        there = relpath(known[file], dirname(uri) or ".")
        return f"[{words}]({there}{'#' * bool(anchor)}{anchor})"
    return words if file.exists() else link[0]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with all its links as they have to be in the site."""
    uri, known = page.file.src_uri, {source(file.src_uri).resolve(): file.src_uri for file in files}
    return re.sub(r"\[([^\[\]\n]*(?:\n[^\[\]\n]+)?)\]\(([^()\s]+)\)", lambda link: fitted(link, uri, known), markdown)

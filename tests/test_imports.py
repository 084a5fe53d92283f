"""Who may import whom, read from the source: imports point down, and the text half knows no tensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotrl import PACKAGE

LAYERS: tuple[tuple[str, ...], ...] = (
    ("types", "prefix", "redact", "target"),
    ("algorithms", "attention", "batch", "config", "context", "envs", "folder", "prompts", "server", "traces"),
    ("endpoint",),
    ("command", "display", "judge", "ledger", "planset", "records", "rewards", "rules", "statistics", "tasks", "wheel"),
    ("check", "checkpoint", "engine", "launch", "lineage", "policy", "scratch", "story", "teacher"),
    ("player",),
    ("compose", "feed", "module", "rehearsal", "rollout"),
    ("workers",),
    ("chain", "data", "drift", "play", "report", "sync", "tracking"),
    ("build", "sweep"),
    ("preflight",),
    ("audit", "evaluate", "plans"),
    ("handover", "xray"),
    ("run",),
    ("progressive",),
    ("__main__",),
)
"""From the bottom up. A file (or a package) imports from layers below its own, and nothing beside it."""

TEXT = ("types", "rules", "target", "redact", "config", "context", "envs", "feed", "folder", "judge", "prompts", "records")
TEXT += ("rewards", "chain", "check", "compose", "preflight", "rollout", "statistics", "engine/__init__", "engine/scripted")
TEXT += ("__main__", "player", "audit", "command", "endpoint", "engine/openai", "plans", "planset", "tasks", "teacher")
TEXT += ("display", "launch", "ledger", "lineage", "play", "report", "server", "story", "sweep", "sync", "tracking", "traces")
"""What knows strings and lists. Loading it loads no tensor library."""

TENSORS = {"torch", "transformers", "lightning", "peft", "safetensors", "tokenizers"}

CONFIGURED = {"audit", "chain", "check", "compose", "play", "preflight", "build", "evaluate", "handover", "progressive"}
CONFIGURED |= {"plans", "rules", "run", "tasks", "xray", "__main__"}
"""Where the configuration object ends; everything below takes plain arguments."""

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def part(path: Path) -> str:
    """The file, or the package at the top, that a path belongs to."""
    return path.parts[0].removesuffix(".py")


def imports(path: Path, *, deferred: bool) -> Iterator[str]:
    """Dotted names that a file imports; those inside functions only when `deferred`."""
    pending: list[ast.AST] = [ast.parse((PACKAGE / path).read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif deferred or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(node))


def ours(path: Path, *, deferred: bool = True) -> Iterator[str]:
    """Dotted paths inside the package that a file imports from."""
    for name in imports(path, deferred=deferred):
        if name.startswith("pilotrl.") and not name.removeprefix("pilotrl.").isupper():
            yield name.removeprefix("pilotrl.")


@pytest.mark.parametrize("path", [p for p in FILES if p != Path("__init__.py")], ids=str)
def test_imports_point_down(path: Path) -> None:
    mine = part(path)
    assert mine in LEVEL, f"{path}: say in LAYERS where it stands"
    for name in ours(path):
        other = name.split(".")[0]
        assert other == mine or LEVEL[other] < LEVEL[mine], f"{path} imports {name}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_configuration_stops_in_the_top_modules(path: Path) -> None:
    if part(path) not in CONFIGURED:
        assert not any(name.split(".")[0] == "config" for name in ours(path))


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert not list(ours(Path("__init__.py")))


def file_of(name: str) -> Path:
    """The file behind a dotted path, which may end in something defined there."""
    whole, _, _ = name.rpartition(".")
    found = [Path(f"{at.replace('.', '/')}{end}") for at in (name, whole) if at for end in (".py", "/__init__.py")]
    return next(path for path in found if (PACKAGE / path).is_file())


def is_text(path: Path) -> bool:
    return part(path) in TEXT or str(path).removesuffix(".py") in TEXT


@pytest.mark.parametrize("path", [p for p in FILES if is_text(p)], ids=str)
def test_the_text_half_loads_no_tensors(path: Path) -> None:
    for name in imports(path, deferred=False):
        assert name.split(".")[0] not in TENSORS, f"{path} imports {name}"
    for name in ours(path, deferred=False):
        assert is_text(file_of(name)), f"{path} imports {name}, which loads tensors"

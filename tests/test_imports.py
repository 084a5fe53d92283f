"""Who may import whom, read from the source: imports point down, and the text half knows no tensors."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotrl import PACKAGE

ROOMS = {
    "__main__ bench doctor evaluate exact plans play sync xray report audit": "runs cli tracking training rollout engine "
    "models teacher rewards",
    "runs": "cli tracking training rollout engine teacher models rewards",
    "cli": "tracking training rollout teacher models rewards",
    "training": "rollout engine models rewards",
    "rollout": "engine teacher",
    "engine": "models",
    "models": "",
    "teacher": "",
    "rewards": "",
    "tracking": "analysis",
    "envs": "",
    "endpoint": "",
    "analysis": "",
    "prompts": "",
    "store": "",
    "config": "",
    "types": "",
}
"""From the top down: the commands, then the rooms, and which rooms below each one may use beside those that all may use."""
SHARED = "endpoint envs prompts analysis store config types"
REPORTS = {"audit": "report"}
"""A command that reads run folders as another one does."""

TEXT = """types config store prompts envs rewards endpoint teacher analysis tracking report audit cli __main__ plans play sync
doctor engine/__init__ engine/scripted engine/openai models/__init__ runs/__init__
rollout/__init__ rollout/agent rollout/cheats rollout/child rollout/curriculum rollout/episode rollout/replies rollout/rules
rollout/scheduler rollout/stopwatch rollout/task_schedule"""
"""What knows strings and lists. Loading it loads no tensor library."""

TENSORS = {"torch", "transformers", "lightning", "peft", "safetensors", "tokenizers"}

CONFIGURED = "__main__ evaluate plans play xray exact audit runs cli config"
"""Where the configuration object ends; everything below takes plain arguments."""

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names.split()}
ALLOWED = {name: rooms.split() for names, rooms in ROOMS.items() for name in names.split()}


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
    assert mine in LEVEL, f"{path}: say in ROOMS where it stands"
    for name in ours(path):
        other = name.split(".")[0]
        if other == mine or other in REPORTS.get(mine, "").split():
            continue
        assert LEVEL[other] > LEVEL[mine], f"{path} imports {name}, which is not below it"
        assert other in (*ALLOWED[mine], *SHARED.split()), f"{path} imports {name}: say in ROOMS that it may"


def test_every_room_says_what_it_is_for_and_where_it_ends() -> None:
    """At most sixteen rooms beside the commands."""
    commands, *rooms = ROOMS
    files = [path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    found = {path.name.removesuffix(".py") for path in files}
    assert found == {"__init__", *commands.split(), *rooms}
    assert len(rooms) <= 16
    for room in rooms:
        if (PACKAGE / room).is_dir():
            text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
            assert re.search(r"^(May import|Imports nothing)", text, re.MULTILINE), room
            assert "Never here" in text or room == "config", room


def test_functions_and_files_fit_on_their_pages() -> None:
    for path in FILES:
        source = (PACKAGE / path).read_text()
        assert source.count("\n") <= 350, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_configuration_stops_in_the_top_modules(path: Path) -> None:
    if part(path) not in CONFIGURED.split():
        assert not any(name.startswith("config.schema") for name in ours(path))


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert not list(ours(Path("__init__.py")))


def file_of(name: str) -> Path:
    """The file behind a dotted path, which may end in something defined there."""
    whole, _, _ = name.rpartition(".")
    found = [Path(f"{at.replace('.', '/')}{end}") for at in (name, whole) if at for end in (".py", "/__init__.py")]
    return next(path for path in found if (PACKAGE / path).is_file())


def is_text(path: Path) -> bool:
    return part(path) in TEXT.split() or str(path).removesuffix(".py") in TEXT.split()


@pytest.mark.parametrize("path", [p for p in FILES if is_text(p)], ids=str)
def test_the_text_half_loads_no_tensors(path: Path) -> None:
    for name in imports(path, deferred=False):
        assert name.split(".")[0] not in TENSORS, f"{path} imports {name}"
    for name in ours(path, deferred=False):
        assert is_text(file_of(name)), f"{path} imports {name}, which loads tensors"


def test_who_reads_a_run_does_not_load_lightning() -> None:
    code = "import sys, pilotrl.xray; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

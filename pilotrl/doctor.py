"""Is this machine ready? `python -m pilotrl.doctor [root=FOLDER] [tracking.uri=URI]`, or with all words of a run.

A line for each finding, with the command that mends it: versions against the floors and against those that the project is tested
with, optional packages, disk, MLflow's store or server, SLURM, models, processors and accelerators. Nothing is written, and no
package is imported to be looked at but torch, for its devices, at the end.
Exit code: 0; 1 if something is broken that a run needs; 2 for invalid arguments.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sqlite3
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.text import Text

from pilotrl import PACKAGE
from pilotrl.analysis.terminal import guarded
from pilotrl.cli.exit_codes import ended
from pilotrl.cli.signals import at_once
from pilotrl.store.redact import hide_credentials, is_address
from pilotrl.store.run_folder import RunFolder
from pilotrl.tracking.mlflow_client import SQLITE
from pilotrl.types import UserError

STYLE = {"ok": "green", "note": "yellow", "broken": "bold red"}
GIB = 2**30
SECONDS = 5
"""That a server is waited for."""
FEW = 5
"""Packages that one line names."""

Requirements = dict[str, list[Requirement]]
"""By the extra that they are for; under "" those that every run needs."""


class Finding(NamedTuple):
    """One line. `broken`: a run needs it; `note`: only some do, or a run may suffer."""

    state: Literal["ok", "note", "broken"]
    about: str
    says: str
    remedy: str = ""


def declared() -> tuple[SpecifierSet, Requirements]:
    """The versions of Python and of packages that are asked for: by `pyproject.toml` in a checkout, from which an older one may
    have been installed, else by the metadata of what is installed."""
    path, found = PACKAGE.parent / "pyproject.toml", Requirements()
    project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {}) if path.is_file() else {}
    if project.get("name") == "pilotrl":
        for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
            found[extra] = [Requirement(line) for line in lines]
        return SpecifierSet(project["requires-python"]), found
    for line in metadata.requires("pilotrl") or ():
        marked = re.search(r"extra == ['\"]([\w-]+)", line)
        found.setdefault(marked[1] if marked else "", []).append(Requirement(line.partition(";")[0]))
    return SpecifierSet(metadata.metadata("pilotrl")["Requires-Python"]), found


def installed(name: str) -> str | None:
    """The version of a distribution; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def fits(one: Requirement) -> bool:
    """Whether it is installed, in a version that is asked for."""
    found = installed(one.name)
    return found is not None and one.specifier.contains(found, prereleases=True)


def tested() -> Path:
    """The file of the versions that the project is tested with: in a wheel inside the package, in a checkout beside it."""
    inside = PACKAGE / "constraints.txt"
    return inside if inside.is_file() else PACKAGE.parent / "constraints.txt"


def pip(*requirements: str, extra: str = "") -> str:
    """The command that installs tested versions, of some packages or of all that PilotRL needs, with an extra."""
    path = PACKAGE.parent
    ours = f"-e {shlex.quote(f'{path}{extra}')}" if (path / "pyproject.toml").is_file() else f"'pilotrl{extra}'"
    return f"pip install -c {shlex.quote(str(tested()))} {shlex.join(requirements) or ours}"


def versions(python: SpecifierSet, asked: Requirements) -> Iterator[Finding]:
    """Python, the packages that every run needs, and those of the extras."""
    here = platform.python_version()
    right = python.contains(here, prereleases=True)
    wrong = f"is {here}, {python} is needed"
    yield Finding("ok", "python", here) if right else Finding("broken", "python", wrong, "python3.12 -m venv .venv")
    bad = [one for one in asked[""] if not fits(one)]
    for one in bad:
        found = installed(one.name)
        says = f"{one.name} {found} is installed" if found else f"{one.name} is not installed"
        yield Finding("broken", "packages", f"{says}, {one.specifier} is needed", pip(str(one)))
    every = len(asked[""])
    yield Finding("ok", "packages", f"{every - len(bad)} of {every} are in the range that is needed")
    lines = tested().read_text(encoding="utf-8").splitlines() if tested().is_file() else []
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    other = [
        f"{pin.name} {installed(pin.name)} ({pin.specifier})" for pin in pins if installed(pin.name) and not fits(pin)
    ]
    if other:
        more = f" and {len(other) - FEW} more" if len(other) > FEW else ""
        yield Finding("note", "packages", f"not those that are tested: {', '.join(other[:FEW])}{more}", pip())
    for extra, needed in asked.items():
        if extra:
            lacks = ", ".join(one.name for one in needed if not fits(one))
            remedy = pip(extra=f"[{extra}]") if lacks else ""
            yield Finding("note" if lacks else "ok", f"[{extra}]", f"lacks {lacks}" if lacks else "installed", remedy)


def disk(root: Path) -> Finding:
    """Whether run folders can be written, and how much."""
    try:
        RunFolder(root).check_writable()
    except UserError as error:
        return Finding("broken", "disk", str(error).partition(": ")[2].partition(";")[0], "root=ANOTHER_FOLDER")
    there = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    little = free < GIB
    remedy = "free some, or root=ANOTHER_FOLDER" if little else ""
    return Finding("note" if little else "ok", "disk", f"{free / GIB:.1f} GiB free in root={root}", remedy)


def mlflow(uri: str) -> Finding:
    """The store or server that runs are sent to."""
    ours, shown = installed("mlflow"), hide_credentials(uri)
    if uri == "off" or ours is None:
        return Finding("ok", "mlflow", "off" if ours else "not installed")
    if is_address(uri):
        return server(uri, shown, ours)
    if not uri.startswith(SQLITE):
        return Finding("note", "mlflow", f"{shown} is not looked at")
    path = Path(uri.removeprefix(SQLITE))
    return store(path, shown, ours) if path.exists() else Finding("ok", "mlflow", f"{shown} is made by the first run")


def server(uri: str, shown: str, ours: str) -> Finding:
    """Whether a server answers, and its version."""
    try:
        with urlopen(f"{uri.rstrip('/')}/version", timeout=SECONDS) as reply:
            theirs = reply.read(100).decode(errors="replace").strip()
    except HTTPError as error:
        return Finding("note", "mlflow", f"{shown} answers with {error.code}: is it MLflow, and is the password right?")
    except (OSError, ValueError) as error:
        return Finding("broken", "mlflow", f"{shown} cannot be reached ({error})", "start it, or tracking.uri=off")
    if theirs.split(".")[0] != ours.split(".")[0]:
        return Finding("note", "mlflow", f"{shown} is version {theirs}, this is {ours}", "make them equal")
    return Finding("ok", "mlflow", f"{shown} answers, version {theirs}; this is {ours}")


def store(path: Path, shown: str, ours: str) -> Finding:
    """Whether an sqlite file has the schema of the MLflow that is installed."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            (there,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except (sqlite3.Error, TypeError) as error:
        return Finding(
            "broken", "mlflow", f"{shown} is no store of MLflow ({error})", "tracking.uri=sqlite:///OTHER.db"
        )
    known = schemas()
    if there in known.keys() - known.values():
        return Finding("ok", "mlflow", f"{shown} has the schema of {ours}")
    if there in known:
        return Finding("broken", "mlflow", f"{shown} has an older schema than {ours}", f"mlflow db upgrade {shown}")
    return Finding("broken", "mlflow", f"{shown} has a newer schema than {ours}", "pip install -U 'mlflow<4'")


def schemas() -> dict[str, str]:
    """Each schema that the installed MLflow knows, and the one before it. Its files are read: importing them takes seconds."""
    spec = find_spec("mlflow")
    places = spec.submodule_search_locations if spec else ()
    files = [path for place in places or () for path in Path(place, "store/db_migrations/versions").glob("*.py")]
    told = re.compile(r"^revision = ['\"](\w+)['\"]\s+^down_revision = ['\"]?(\w+)", re.MULTILINE)
    found = [told.search(path.read_text(encoding="utf-8")) for path in files]
    return {one[1]: one[2] for one in found if one}


def machine() -> Iterator[Finding]:
    """SLURM, the cache of models, processors."""
    lacks = ", ".join(tool for tool in ("sbatch", "srun", "squeue") if shutil.which(tool) is None)
    yield Finding(
        "ok", "slurm", f"no {lacks}: sweeps run on this machine alone" if lacks else "sbatch, srun, squeue are here"
    )
    cache = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser() / "hub"
    offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
    others = "others are refused (HF_HUB_OFFLINE)" if offline else "others are downloaded"
    yield Finding("ok", "models", f"nano is in the package, {len([*cache.glob('models--*')])} in {cache}; {others}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    yield Finding("ok", "processor", f"{cores} cores, {memory:.0f} GiB memory")


def accelerators() -> Iterator[Finding]:
    """What torch finds."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("broken", "accelerator", f"torch cannot be imported ({error})", pip("torch"))
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        yield Finding("ok", "accelerator", f"cuda:{number}: {about.name}, {about.total_memory / GIB:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("ok", "accelerator", "mps")
    elif not torch.cuda.device_count() and shutil.which("nvidia-smi"):
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield Finding("note", "accelerator", f"none found by torch {torch.__version__}, built {built}", "nvidia-smi")
    elif not torch.cuda.device_count():
        yield Finding("ok", "accelerator", "none: trainer.accelerator=cpu")


def findings(argv: Sequence[str]) -> Iterator[Finding]:
    """All of them, as they come. Raises UserError for invalid arguments."""
    python, asked = declared()
    try:
        from pilotrl.cli.compose import composed_job, parse
    except ImportError:  # the packages that are missing are named, and the rest cannot be asked for
        yield from versions(python, asked)
        return
    arguments = parse(argv)
    config = composed_job(arguments, arguments.overrides).config
    yield from versions(python, asked)
    yield disk(Path(config.root))
    yield mlflow(config.tracking.uri or "off")
    yield from machine()
    yield from accelerators()


def command(argv: Sequence[str], console: Console) -> bool:
    """Print the findings. Returns whether something is broken."""
    broken = False
    for finding in findings(argv):
        broken |= finding.state == "broken"
        line = Text.assemble((f"{finding.state:<8}", STYLE[finding.state]), f"{finding.about:<13}{finding.says}")
        line.append(f": {finding.remedy}" if finding.remedy else "", style="bold")
        console.print(line, soft_wrap=True)
    return broken


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 if something is broken that a run needs; 2, with a one-line message, for invalid arguments."""
    broken, console = list[bool](), guarded(Console(highlight=False))
    return ended(lambda words: broken.append(command(words, console)), argv, __doc__) or int(any(broken))


if __name__ == "__main__":
    sys.exit(at_once(main()))

"""`python -m pilotrl.doctor`: what is missing, too old or out of reach is a line with the command that mends it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pilotrl import PACKAGE, doctor
from pilotrl.doctor import Finding


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def install(place: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    """Metadata of a distribution, found before that of the environment."""
    folder = place / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(place)


def about(topic: str, found: Iterator[Finding]) -> list[Finding]:
    return [one for one in found if one.about == topic]


def test_the_environment_of_the_tests_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert "broken" not in out
    assert {line.split()[0] for line in out.splitlines()} <= {"ok", "note"}
    assert os.listdir() == []


def test_a_release_with_a_hole_is_named_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path / "site", monkeypatch, "lightning", "2.6.5")
    assert doctor.main(["root=here"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("broken")]
    assert "lightning 2.6.5 is installed, <3,>=2.6.6 is needed: pip install -c " in line
    assert line.endswith(" 'lightning<3,>=2.6.6'")


def test_what_is_missing_or_of_an_older_python_is_named() -> None:
    asked = {"": [Requirement("numpy"), Requirement("no-such-thing>=2")], "more": [Requirement("nothing>=1")]}
    python, missing, fine, *_, extra = doctor.versions(SpecifierSet(">=4"), asked)
    assert (python.state, python.about) == ("broken", "python")
    assert (missing.state, missing.says) == ("broken", "no-such-thing is not installed, >=2 is needed")
    assert fine.says == "1 of 2 are in the range that is needed"
    assert (extra.state, extra.says) == ("note", "lacks nothing")
    assert extra.remedy.endswith("[more]'")


def test_a_version_that_is_not_the_tested_one_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, "rich", "99.0")
    (note,) = [one for one in about("packages", doctor.versions(*doctor.declared())) if one.state == "note"]
    assert "rich 99.0 (==" in note.says


def test_an_installed_wheel_is_asked_by_its_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, "pilotrl", "1")
    with open(tmp_path / "site" / "pilotrl-1.dist-info" / "METADATA", "a", encoding="utf-8") as file:
        file.write("Requires-Python: >=3.11\nRequires-Dist: rich>=13\nRequires-Dist: mkdocs<2,>=1.6; extra == 'docs'\n")
    monkeypatch.setattr(doctor, "PACKAGE", tmp_path / "site" / "pilotrl")
    python, asked = doctor.declared()
    assert str(python) == ">=3.11"
    assert {extra: [*map(str, of)] for extra, of in asked.items()} == {"": ["rich>=13"], "docs": ["mkdocs<2,>=1.6"]}
    assert doctor.pip(extra="[docs]").endswith(" 'pilotrl[docs]'")


def schema(path: Path, version: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES (?)", (version,))
        database.commit()


def test_a_store_of_another_schema_is_named(tmp_path: Path) -> None:
    known = doctor.schemas()
    (latest,) = known.keys() - known.values()
    wanted = {
        latest: ("ok", ""),
        known[latest]: ("broken", "mlflow db upgrade"),
        "unheard": ("broken", "pip install -U"),
    }
    for number, (version, (state, remedy)) in enumerate(wanted.items()):
        schema(tmp_path / f"{number}.db", version)
        found = doctor.mlflow(f"sqlite:///{tmp_path}/{number}.db")
        assert found.state == state, found
        assert found.remedy.startswith(remedy)
    (tmp_path / "text.db").write_text("no database at all")
    assert doctor.mlflow(f"sqlite:///{tmp_path}/text.db").state == "broken"
    assert "is made by the first run" in doctor.mlflow(f"sqlite:///{tmp_path}/new.db").says
    assert not (tmp_path / "new.db").exists()


def test_the_schema_is_the_one_that_mlflow_itself_expects() -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    known = doctor.schemas()
    assert known.keys() - known.values() == {_get_latest_schema_revision()}


@contextmanager
def serving(code: int, text: str) -> Iterator[str]:
    """The address of a server that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *given: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("code", "text", "state", "says"),
    [
        (200, "3.0.0", "ok", "answers, version 3.0.0; this is 3."),
        (200, "2.9\x1b[2J", "note", "is version 2.9"),
        (404, "nothing", "note", "answers with 404"),
    ],
)
def test_a_server_is_asked_for_its_version(code: int, text: str, state: str, says: str) -> None:
    with serving(code, text) as address:
        found = doctor.mlflow(address)
    assert found.state == state
    assert says in found.says


def test_a_server_that_is_not_there_is_broken_and_its_password_is_not_shown() -> None:
    with serving(200, "") as address:
        pass
    found = doctor.mlflow(address.replace("//", "//me:word@"))
    assert (found.state, "cannot be reached" in found.says, "word" in found.says) == ("broken", True, False)


def test_a_root_that_cannot_be_written_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = doctor.disk(tmp_path / "file" / "runs")
    assert found.state == "broken"
    assert "cannot be written" in found.says


@pytest.mark.parametrize("words", [["--nope"], ["no.such.key=1"], ["root"]])
def test_bad_words_are_one_line_and_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pilotrl: ")
    assert captured.err.count("\n") == 1


def test_nothing_waits_for_torch_that_does_not_need_it(tmp_path: Path) -> None:
    """All but its own line stands there before it is imported, even where it cannot be."""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart is missing')")
    paths = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "pilotrl.doctor", "tracking.uri=off"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    *lines, last = done.stdout.splitlines()
    assert last.startswith("broken  accelerator  torch cannot be imported (libcudart is missing): pip install")
    assert [line.split()[1] for line in lines][-3:] == ["slurm", "models", "processor"]
    assert (done.returncode, done.stderr) == (1, "")

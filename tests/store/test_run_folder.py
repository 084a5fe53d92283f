"""The run folder: who may write it, and how it goes back to a checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilotrl.store.run_folder import RunFolder, write_whole
from pilotrl.types import UserError
from tests.conftest import RESULTS

HOLD = """
import sys
from pilotrl.store.run_folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_inspecting_a_folder_creates_nothing(folder: RunFolder, tmp_path: Path) -> None:
    assert not folder.begun
    assert not folder.finished
    folder.check_writable()
    folder.check_free()
    assert list(tmp_path.iterdir()) == []


def test_begun_with_a_configuration_finished_with_a_summary(folder: RunFolder) -> None:
    folder.config.parent.mkdir(parents=True)
    write_whole(folder.config, "seed: 0\n")
    assert (folder.begun, folder.finished) == (True, False)
    for broken in ("", "{", "{}", "[]", '{"train": {}}'):
        write_whole(folder.summary, broken)
        with pytest.raises(UserError, match=r"summary\.json: .*; delete it, and resume=.*/run writes it anew"):
            _ = folder.finished
    write_whole(folder.summary, RESULTS)
    assert (folder.begun, folder.finished) == (True, True)


def test_the_lock_excludes_a_second_process_until_the_first_has_ended(folder: RunFolder) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is being written by process {holder.pid}"), folder.lock():
            pass
        with pytest.raises(UserError, match="is being written"):
            folder.check_free()
        holder.kill()
    with folder.lock():
        assert (folder / ".lock").read_text() == str(os.getpid())
    folder.check_free()


def test_lines_are_whole_in_the_file_at_once_and_appended(folder: RunFolder) -> None:
    folder.path.mkdir()
    for step in range(2):
        with folder.lines("metrics.jsonl") as lines:
            lines.write({"step": step, "name": "é"})
            assert json.loads(folder.metrics.read_text().splitlines()[-1]) == {"step": step, "name": "é"}
    assert len(folder.metrics.read_text().splitlines()) == 2


def test_a_line_with_nan_is_refused(folder: RunFolder) -> None:
    folder.path.mkdir()
    with folder.lines("metrics.jsonl") as lines, pytest.raises(ValueError, match="JSON"):
        lines.write({"loss": float("nan")})


def test_cutting_back_to_a_checkpoint_forgets_what_came_after(folder: RunFolder) -> None:
    folder.path.mkdir()
    with folder.lines("metrics.jsonl") as metrics, folder.lines("episodes.jsonl") as episodes:
        metrics.write({"step": 1})
        episodes.write({"step": 1})
        offsets = folder.offsets()
        metrics.write({"step": 2})
        episodes.write({"step": 2})
    folder.cut(offsets)
    assert folder.metrics.read_text() == folder.episodes.read_text() == '{"step": 1}\n'
    assert folder.offsets() == offsets
    folder.cut({})
    assert folder.metrics.read_text() == folder.episodes.read_text() == ""


def test_a_folder_without_lines_can_be_cut(folder: RunFolder) -> None:
    folder.path.mkdir()
    assert folder.offsets() == {"metrics.jsonl": 0, "episodes.jsonl": 0}
    folder.cut(folder.offsets())
    assert list(folder.path.iterdir()) == []


def test_missing_lines_are_refused_before_anything_is_cut(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.metrics.write_text("12345")
    folder.episodes.write_text("123")
    with pytest.raises(UserError, match=r"episodes\.jsonl: has lost lines"):
        folder.cut({"metrics.jsonl": 2, "episodes.jsonl": 4})
    assert folder.metrics.read_text() == "12345"


@pytest.mark.parametrize("place", ["file/run", "/proc/runs/run"])
def test_a_folder_that_cannot_be_written_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder(tmp_path / place).check_writable()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.path.mkdir()
    write_whole(folder.summary, "old")

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(folder.summary, "new")
    assert folder.summary.read_text() == "old"


def test_readers_see_a_complete_file_while_it_is_written(folder: RunFolder) -> None:
    folder.path.mkdir()
    write_whole(folder.summary, "old")
    with open(folder.summary) as reader:
        write_whole(folder.summary, b"new")
        assert reader.read() == "old"
    assert folder.summary.read_text() == "new"
    assert [path.name for path in folder.path.iterdir()] == ["summary.json"]

"""A full disk: runs end with one line and resume without loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pilotrl import PACKAGE
from pilotrl.store.run_folder import RunFolder, write_whole
from pilotrl.sync import sync
from pilotrl.tracking.sync_state import RunInfo, SyncState
from pilotrl.tracking.tracker import Tracker
from pilotrl.types import UserError


@dataclass
class Disk:
    """A small file system in memory."""

    path: Path

    def resize(self, kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(self.path)], check=True)

    def fill(self) -> None:
        with (self.path / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Skips if nothing may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4096k", "none", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        reason = f"NO FULL DISK: a tmpfs cannot be mounted here ({mounted.stderr.strip()}); run this as root"
        pytest.skip(reason)
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def command(model: Path, *overrides: str) -> list[str]:
    """A run of seconds."""
    sizes = ("model.max_length=192", "model.max_plan_tokens=12", "model.max_action_tokens=8", f"model.path={model}")
    sizes += ("model.lora.rank=null",)  # checkpoints that fill it
    train = ("algorithm=ppo", "train.steps=60", "train.tasks=2", "train.group_size=4", "checkpoint.every=2")
    train += ("checkpoint.calls_every=0",)
    panel = ("panel.tasks=2", "panel.samples=1", "panel.greedy=false", "trainer.threads=1")
    return [sys.executable, "-m", "pilotrl", "env=toy", *sizes, *train, *panel, *overrides]


def result(folder: Path) -> tuple[Any, ...]:
    """What has to be the same."""
    summary = json.loads((folder / "summary.json").read_text())
    return summary["weights_sha256"], summary["eval"], (folder / "episodes.jsonl").read_bytes()


def test_a_run_on_a_full_disk_ends_with_one_line_and_can_be_resumed(disk: Disk, tiny: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}

    def run(folder: Path, uri: str) -> subprocess.CompletedProcess[str]:
        line = command(tiny, f"hydra.run.dir={folder}", f"tracking.uri={uri}")
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert run(tmp_path / "whole", "off").returncode == 0
    whole = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    disk.resize(whole // 1024 - 200)  # room for the start, and for most of the steps
    ended = run(disk.path / "run", uri)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        f"pilotrl: {disk.path}/run: no space is left on its disk; free some, then go on with resume={disk.path}/run"
    )
    assert "Traceback" not in ended.stderr
    disk.resize(8192)
    again = run(disk.path / "run", uri)
    assert again.returncode == 0, again.stderr
    assert result(disk.path / "run") == result(tmp_path / "whole")


def test_a_full_disk_under_mlflow_alone_is_a_warning(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, uri = tmp_path / "run", f"sqlite:///{disk.path}/mlflow.db"
    folder.mkdir()
    disk.fill()
    (folder / "metrics.jsonl").write_text('{"step": 1, "time": 1.7e9, "train/loss": 0.5}\n')
    assert not Tracker(folder, uri, RunInfo("pilotrl", "run", {}, {})).finish("FINISHED")
    assert len(caplog.records) == 2
    assert "failed" in caplog.messages[0]
    disk.empty()
    sync(folder, uri)
    from mlflow import MlflowClient

    assert MlflowClient(uri).get_run(SyncState(folder).read()["run_id"]).data.metrics == {"train/loss": 0.5}


def test_a_full_disk_is_refused_before_anything_is_written(disk: Disk) -> None:
    disk.fill()
    with pytest.raises(UserError, match="No space left on device"):
        RunFolder(disk.path / "run").check_writable()
    assert [path.name for path in disk.path.iterdir()] == ["filler"]


def test_a_file_that_does_not_fit_leaves_the_old_one(disk: Disk) -> None:
    write_whole(disk.path / "summary.json", "old")
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        write_whole(disk.path / "summary.json", bytes(10**6))
    assert (disk.path / "summary.json").read_text() == "old"
    assert sorted(path.name for path in disk.path.iterdir()) == ["filler", "summary.json"]

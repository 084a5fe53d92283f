"""Where the time of a step goes, in whole runs; and runs of which a phase has no end."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotrl import PACKAGE
from pilotrl.cli.compose import composed_job, parse
from pilotrl.config import trust
from pilotrl.rollout import stopwatch
from pilotrl.runs import run as running
from pilotrl.runs.step_metrics import gpu_memory
from pilotrl.store.run_folder import RunFolder

SMALL = (
    *("env=toy", "stage=adherence", "tracking.uri=off", "drift.every=0", "checkpoint.every=1"),
    *("model.max_length=192", "model.max_plan_tokens=12", "model.max_action_tokens=8", "model.lora.rank=null"),
    *("train.steps=3", "train.tasks=4", "train.group_size=4", "train.minibatches=2", "train.micro_tokens=512"),
    *("panel.tasks=2", "panel.samples=1", "panel.greedy=false"),
)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]


@pytest.mark.parametrize("threads", [1, 2])
def test_phases_add_up_to_the_step(
    threads: int, warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With two threads two processes play the episodes of a step, and what each spent is counted half."""
    read, real = list[tuple[float, float]](), stopwatch.lap

    def lap() -> Any:
        before, found = time.perf_counter(), real()
        read.append((before, time.perf_counter()))
        return found

    monkeypatch.setattr(stopwatch, "lap", lap)
    monkeypatch.setattr(running, "learning_curve", lambda *given: None)
    caplog.set_level(logging.INFO, "pilotrl")
    words = [*SMALL, f"model.path={warm}", f"trainer.threads={threads}"]
    running.run(composed_job(parse([]), words).config, tmp_path)
    steps = lines(tmp_path)
    assert len(read) == 1 + len(steps)
    for step, begin, end in zip(steps, read[:-1], read[1:], strict=True):
        seconds = {name: step[f"seconds/{name}"] for name in stopwatch.PHASES}
        assert sum(seconds.values()) == pytest.approx(step["seconds/step"], abs=1e-6)
        assert end[0] - begin[1] <= step["seconds/step"] <= end[1] - begin[0]  # as read around it
        assert min(seconds.values()) >= 0
        assert all(seconds[name] > 0 for name in ("generate", "environment", "judge", "train", "save"))
        assert step["speed/generate"] == step["tokens/generated"] / seconds["generate"]
        assert step["speed/train"] == step["tokens/trained"] / seconds["train"]
        assert 0 < step["seconds/slowest_episode"] < step["seconds/step"]
    total = json.loads(RunFolder(tmp_path).summary.read_text())["train"]
    assert total["update_seconds"] == sum(step["seconds/train"] for step in steps)
    acting = [step[f"seconds/{name}"] for step in steps for name in stopwatch.PHASES[:5]]
    assert total["rollout_seconds"] == pytest.approx(sum(acting))
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    played = [json.loads(line) for line in RunFolder(tmp_path).episodes.read_text().splitlines()]
    for number, (line, step) in enumerate(zip(told, steps, strict=True), 1):
        task, sample, seconds = re.findall(r"slowest episode: (\S+), sample (\d), (\d+\.\d) s$", line)[0]
        here = [episode for episode in played if (episode["phase"], episode["step"]) == ("train", number)]
        assert (task, int(sample)) in {(episode["task"]["id"], episode["sample"]) for episode in here}
        assert float(seconds) == pytest.approx(step["seconds/slowest_episode"], abs=0.06)
        assert "seconds" not in here[0]


def test_files_that_are_compared_know_no_clock(warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes and kept calls of two runs are equal, byte for byte, also where one of them is watched."""
    monkeypatch.setattr(running, "learning_curve", lambda *given: None)
    for folder, deadline in (("one", "null"), ("two", "600")):
        words = [*SMALL, f"model.path={warm}", "trainer.threads=1", "train.steps=1", f"trainer.deadline={deadline}"]
        running.run(composed_job(parse([]), words).config, tmp_path / folder)
    one, two = (RunFolder(tmp_path / folder) for folder in ("one", "two"))
    assert one.episodes.read_bytes() == two.episodes.read_bytes()
    (kept,), (same,) = ([*run.calls.iterdir()] for run in (one, two))
    assert kept.read_bytes() == same.read_bytes()
    sums = [json.loads(run.summary.read_text())["weights_sha256"] for run in (one, two)]
    assert sums[0] == sums[1]


def test_the_memory_of_a_gpu_is_the_most_since_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    most = {"bytes": 3 * 10**9}
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: most["bytes"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: most.update(bytes=10**9))
    assert gpu_memory(torch.device("cpu")) == {}
    assert [gpu_memory(torch.device("cuda", 0))["memory/gpu_gb"] for _ in range(2)] == [3.0, 1.0]


HANGING = '''
"""ToyEnv, of which a step after the second checkpoint does not come back while there is a file of that name."""
import os, pathlib, time
from pilotrl.envs.toy import ToyEnv

class Hanging(ToyEnv):
    def step(self, action):
        while pathlib.Path("hangs").exists() and pathlib.Path("run/checkpoints/step-000002.ckpt").exists():
            time.sleep(60)  # here it hangs
        return super().step(action)
'''


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_whose_environment_hangs_ends_and_goes_on(
    threads: int, warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with exit code 1 and the line that hangs, in a rollout worker too, and then comes to the weights of a run that did
    not hang."""
    (tmp_path / "hanging.py").write_text(HANGING)
    (tmp_path / "hangs").touch()
    words = [
        *SMALL,
        f"model.path={warm}",
        f"trainer.threads={threads}",
        "env._target_=hanging.Hanging",
        "trust=[hanging]",
    ]
    environment = os.environ | {"PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pilotrl", *words, "trainer.deadline=10", "hydra.run.dir=run"]
    hung = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert hung.returncode == 1, hung.stderr
    line = HANGING[: HANGING.index("# here it hangs")].count("\n") + 1
    assert f'hanging.py", line {line} in step' in hung.stderr
    told = (tmp_path / "run" / "pilotrl.log").read_text()
    assert re.search(r"ERROR .*: phase environment has lasted \d+ s: trainer.deadline=10 ends it", told)
    assert len(lines(tmp_path / "run")) == 2

    (tmp_path / "hangs").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trust, "MODULES", {"hanging"})
    monkeypatch.setattr(running, "learning_curve", lambda *given: None)
    run, whole = (RunFolder(tmp_path / folder) for folder in ("run", "whole"))
    for folder in (run, whole):  # without a deadline: it would end this process, on a busy machine too
        running.run(composed_job(parse([]), words).config, folder.path)
    assert run.episodes.read_bytes() == whole.episodes.read_bytes()
    sums = [json.loads(each.summary.read_text())["weights_sha256"] for each in (run, whole)]
    assert sums[0] == sums[1]

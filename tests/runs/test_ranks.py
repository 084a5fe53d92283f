"""Distributed training: two and three ranks get the same loss, gradient and weights as one, each with its share of the passes.

Run as a script this file is one rank: it trains every case and saves the results.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pilotrl import PACKAGE
from pilotrl.runs.step_metrics import BY_CLOCK
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import Episode
from tests.runs.test_resume import SMALL

BOTH: dict[str, Any] = {"trains": ["planner", "executor"], "agent_spec": {"teacher_plans": False}}
CASES: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": "grpo", "minibatches": 1},
    "grpo in four minibatches": {"algorithm": "grpo", "minibatches": 4},
    "ppo in four minibatches": {"algorithm": "ppo", "minibatches": 4},
    "a minibatch for every group": {"algorithm": "grpo", "minibatches": 40},
    "one group": {"algorithm": "grpo", "minibatches": 2, "tasks": 1},
    "played by the weights of a step ago": {"algorithm": "grpo", "minibatches": 2, "lag": 1},
    "an adapter for each role": {"algorithm": "grpo", "minibatches": 2, "roles": "separate", **BOTH},
    "a model for each role": {"algorithm": "ppo", "minibatches": 2, "roles": "isolated", **BOTH},
    "nothing to learn": {"algorithm": "grpo", "minibatches": 2},
}
"""With one group there are more ranks than groups."""


def spread(episodes: Sequence[Episode]) -> None:
    """Every group has something to learn, and every episode has come to its reward."""
    for episode in episodes:
        episode.outcome, episode.reward = "failed", (1 + episode.sample + episode.group % 2) / 5


def train(make: Callable[..., Any], case: str, **lightning: Any) -> dict[str, Any]:
    """A step by gradient descent: Adam would divide the rounding of a gradient near 0 by a number that is as small, and in a
    second step rounding may decide which token is sampled."""
    lag = CASES[case].get("lag", 0)
    run = make(**CASES[case], steps=1 + lag, lr=1e-3, micro_tokens=600, seed=1)
    run.module.version += lag
    for held in run.module.lagged.buffers():
        held *= 1.1
    run.graded(spread if case != "nothing to learn" else lambda episodes: None)
    learned = [p for p in run.module.parameters() if p.requires_grad]
    run.module.configure_optimizers = lambda: [torch.optim.SGD([{"params": learned, "initial_lr": 0.1}], lr=0.1)]
    scored, update, start, passes = run.module.scored, run.module.update, run.weights(), [0]
    begin, shared = run.module.on_train_batch_start, list[int]()

    def scored_once_more(*given: Any, **counts: float) -> Any:
        passes[-1] += 1
        return scored(*given, **counts)

    def updated(step: int) -> float:
        passes.append(0)
        return float(update(step))

    def begun(batch: Any, number: int) -> None:
        shared.append(batch.ranks)
        begin(batch, number)

    run.module.scored, run.module.update, run.module.on_train_batch_start = scored_once_more, updated, begun
    run.fit(**lightning)
    made = {"metrics": run.module.metrics, "weights": run.weights(), "start": start}
    return made | {"passes": passes[:-1], "shared": shared}


def main(folder: Path, out: Path, count: int) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import Training

    torch.set_num_threads(1)
    several: dict[str, Any] = {"devices": count, "strategy": "ddp"}
    made = {case: train(lambda **given: Training(folder, **given), case, **several) for case in CASES}
    torch.save(made, out)


def several_ranks(script: Path, count: int, tiny: Path, folder: Path) -> list[dict[str, Any]]:
    """What so many processes over gloo saved, each of which runs a script such as this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path]),
    }
    command = [sys.executable, "-W", "error::RuntimeWarning", str(script), str(tiny)]
    started = [
        subprocess.Popen(
            [*command, str(folder / f"{rank}.pt"), str(count)],
            env=os.environ | shared | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=900)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(said)[-4000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What so many processes over gloo learned in each case."""
    return several_ranks(Path(__file__), request.param, tiny, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_several_ranks_learn_what_one_does(
    ranks: list[dict[str, Any]], training: Callable[..., Any], case: str
) -> None:
    one, several = train(training, case), [rank[case] for rank in ranks]
    moved = (one["weights"] - one["start"]).abs().max()
    assert moved > 0 or case == "nothing to learn"
    for rank in several:
        assert torch.equal(rank["weights"], several[0]["weights"])
        assert rank["shared"] == [len(several)]
        assert rank["passes"] == [ceil(passes / len(several)) for passes in one["passes"]]  # of each update
    # A gradient is a float32 sum over tokens, in another order on each rank: some thousand roundings of its size at most.
    assert (several[0]["weights"] - one["weights"]).abs().max() <= 1000 * torch.finfo(torch.float32).eps * moved
    for name, value in one["metrics"].items():
        assert several[0]["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(
    "chosen",
    [("stage=adherence",), ("stage=warmstart", "train.validate_every=1", "train.validate_tasks=5")],
    ids=["rl", "sft"],
)
def test_episodes_of_two_ranks_are_written_and_counted_like_those_of_one(
    warm: Path, tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    """Whole runs, evaluations too: the first rank writes the episodes of all, and what all made of its tokens. A small step, so
    that its rounding decides no token of the next one."""
    words = [*chosen, *SMALL, "train.steps=2", "train.lr=1e-6", "train.tasks=3", f"model.path={warm}"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    for devices in (1, 2):
        command = [sys.executable, "-m", "pilotrl", *words, f"trainer.devices={devices}", f"hydra.run.dir={devices}"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=900)
    one, two = (RunFolder(tmp_path / str(devices)) for devices in (1, 2))
    lines = [run.episodes.read_text().splitlines() for run in (one, two)]
    assert lines[0] == lines[1]
    assert {json.loads(line)["phase"].partition("/")[0] for line in lines[0]} == {"before", "train", "after"}
    for name in ("probe.safetensors", "calls/step-000001.safetensors"):
        held, same = (load_file(run.path / name) for run in (one, two))
        for part in ("row_ids", "initial" if "probe" in name else "recomputed"):
            torch.testing.assert_close(same[part], held[part], atol=1e-5, rtol=1e-4)
    steps = [[json.loads(line) for line in run.metrics.read_text().splitlines()] for run in (one, two)]
    for ours, theirs in zip(*steps, strict=True):
        assert (ours["env/episodes"], ours.get("valid/loss", 0) > 0) == (12, "stage=warmstart" in chosen)
        for name, value in ours.items():
            if not name.startswith(BY_CLOCK):
                assert theirs[name] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)), name


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

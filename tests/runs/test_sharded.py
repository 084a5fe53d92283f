"""Sharded training: two ranks with half of the weights each learn what one rank learns, and go on where they were ended.

Run as a script this file is one rank: it trains every case and a run, and saves the results.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pilotrl.cli import machine
from pilotrl.cli.compose import composed_job, parse
from pilotrl.config import trust
from pilotrl.models import policy, sharding
from pilotrl.runs import run as running
from pilotrl.store.run_folder import RunFolder
from pilotrl.training import ranks
from pilotrl.training.data import Scoring
from pilotrl.types import Episode, UserError
from tests.engine.copying_engine import CopyingEngine
from tests.runs.test_ranks import several_ranks, spread
from tests.runs.test_resume import SMALL, Interrupted, result

CASES: dict[str, dict[str, Any]] = {
    "grpo in four minibatches": {"algorithm": "grpo", "minibatches": 4},
    "ppo in four minibatches": {"algorithm": "ppo", "minibatches": 4},
    "fewer passes than ranks": {"algorithm": "grpo", "minibatches": 40},
    "computed in bfloat16": {"algorithm": "ppo", "minibatches": 1},
}
RUN = (*SMALL, "stage=adherence", "algorithm=ppo", "model.lora.rank=null", "model.max_length=448")
RUN += ("train.steps=4", "train.lr=1e-5")
COPYING = ("engine._target_=tests.engine.copying_engine.CopyingEngine", "engine.name=copying", "engine.slots=16")


def train(make: Callable[..., Any], case: str, **lightning: Any) -> dict[str, Any]:
    """A step by gradient descent, as in test_ranks.py."""
    run = make(**CASES[case], steps=1, lr=1e-3, micro_tokens=600, seed=1)
    run.graded(spread)
    if lightning:
        end = run.source.agent_specs[0].chat.end
        run.source.engine = CopyingEngine(model=run.policy, end=end, folder=Path(), rank=ranks.number(), slots=16)
        run.policy.dtype = torch.bfloat16 if "bfloat16" in case else torch.float32
    run.module.configure_optimizers = lambda: [
        torch.optim.SGD([{"params": [*run.module.parameters()], "initial_lr": 0.1}], lr=0.1)
    ]
    start = {name: tensor.clone() for name, tensor in sharding.gathered(run.policy, keep=True).items()}
    run.fit(**lightning)
    parts = sum(p.to_local().numel() for p in run.module.parameters()) if lightning else 0
    return {
        "metrics": run.module.metrics,
        "weights": sharding.gathered(run.policy, keep=True),
        "sha256": policy.weights_sha256(run.policy),
        "start": start,
        "parts": parts,
    }


def play(folder: Path, tiny: Path, *words: str) -> None:
    """A whole run, of which this process is one rank. A random model has not learned what is rewarded: it gets other rewards."""
    kept, picture = Scoring.__call__, running.learning_curve

    def scored(scoring: Scoring, episodes: Sequence[Episode]) -> None:
        kept(scoring, episodes)
        spread(episodes)

    Scoring.__call__, running.learning_curve = scored, lambda *given: None  # type: ignore[method-assign]
    try:
        running.run(composed_job(parse([]), [*RUN, f"model.path={tiny}", *words]).config, folder)
    finally:
        Scoring.__call__, running.learning_curve = kept, picture  # type: ignore[method-assign]


def interrupted(folder: Path, tiny: Path, *words: str) -> None:
    """A run that ends in its third step."""
    kept = running.Run.after_step

    def ends(run: Any, batch: Any, module: Any) -> None:
        if batch.step == 2:
            raise Interrupted
        kept(run, batch, module)

    running.Run.after_step = ends  # type: ignore[method-assign]
    try:
        play(folder, tiny, *words)
    except Interrupted:
        return
    finally:
        running.Run.after_step = kept  # type: ignore[method-assign]
    raise AssertionError


def main(tiny: Path, out: Path, count: int) -> None:
    from tests.conftest import Training

    torch.set_num_threads(1)
    trust.MODULES = {"tests"}
    made = {}
    for case in CASES:
        several: dict[str, Any] = {"devices": count, "strategy": ranks.strategy("fsdp", count)}
        made[case] = train(lambda **given: Training(tiny, **given), case, **several)
    words = (*COPYING, f"trainer.devices={count}", "trainer.strategy=fsdp")
    play(out.parent / "whole", tiny, *words)
    interrupted(out.parent / "torn", tiny, *words)
    play(out.parent / "torn", tiny, *words)
    torch.save(made, out)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def two(tiny: Path, place: Path) -> list[dict[str, Any]]:
    """What two processes over gloo learned in each case."""
    return several_ranks(Path(__file__), 2, tiny, place)


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(tensors.items())])


@pytest.mark.parametrize("case", CASES)
def test_shards_learn_what_the_whole_does(two: list[dict[str, Any]], training: Callable[..., Any], case: str) -> None:
    one, parts = train(training, case), [rank[case] for rank in two]
    assert parts[0]["sha256"] == parts[1]["sha256"]
    whole = parts[0]["weights"]
    assert {name: (t.shape, t.dtype) for name, t in whole.items()} == {
        name: (t.shape, t.dtype) for name, t in one["weights"].items()
    }
    assert max(rank["parts"] for rank in parts) < 0.6 * len(flat(whole))
    moved = (flat(one["weights"]) - flat(one["start"])).abs().max()
    near = 0.1 if "bfloat16" in case else 1000 * torch.finfo(torch.float32).eps
    assert 0 < (flat(whole) - flat(one["weights"])).abs().max() <= near * moved
    for name, value in one["metrics"].items():
        assert parts[0]["metrics"][name] == pytest.approx(value, rel=100 * near, abs=1e-2 * near), name


def test_a_run_in_shards_leaves_what_one_rank_leaves(
    two: list[dict[str, Any]], place: Path, tiny: Path, tmp_path: Path
) -> None:
    """The policy whole, as plain transformers loads it, and its hash as if it had never been cut."""
    play(tmp_path, tiny)
    one, shards = RunFolder(tmp_path), RunFolder(place / "whole")
    loaded = AutoModelForCausalLM.from_pretrained(shards.policy, dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(one.policy, dtype=torch.float32).state_dict()
    moved = (flat(theirs) - flat(start)).norm()
    assert (flat(loaded.state_dict()) - flat(theirs)).norm() < 0.01 * moved
    assert (flat(loaded.state_dict()) - flat(theirs)).abs().max() < 1e-5
    again = policy.Policy(loaded, critic=True)
    assert again.value is not None
    again.value.load_state_dict(load_file(shards.value))
    assert policy.weights_sha256(again) == shards.results()["weights_sha256"] != one.results()["weights_sha256"]
    assert [json.loads(line)["step"] for line in shards.metrics.read_text().splitlines()] == [1, 2, 3, 4]
    said, theirs_said = (re.sub(r'"advantage": [^}]*', "", run.episodes.read_text()) for run in (shards, one))
    assert said == theirs_said  # credit has the value head's rounding


def test_a_run_in_shards_goes_on_where_it_was_ended(two: list[dict[str, Any]], place: Path) -> None:
    """Bit for bit."""
    assert result(place / "torn") == result(place / "whole")
    (checkpoint,) = RunFolder(place / "whole").checkpoints.iterdir()
    held = torch.load(checkpoint, weights_only=True)
    assert {name: tensor.shape for name, tensor in held["state_dict"].items() if "q_proj" in name} == {
        f"policy.model.model.layers.{layer}.self_attn.q_proj.weight": (32, 32) for layer in (0, 1)
    }


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "found", lambda kind: 2)
    config = composed_job(parse([]), ["env=toy", "trainer.accelerator=gpu", "trainer.devices=8"]).config
    with pytest.raises(UserError, match=r"trainer\.devices=8: there are 2; give at most 2"):
        machine.check_devices(config)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

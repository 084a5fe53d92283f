"""What it saves to run once what rows begin with alike: `python tests/speed.py RUN_FOLDER`, a batch that the run kept.

The same rows forwards and backwards, all in a trie and each by itself, by turns in one process.

What several ranks save: `python tests/speed.py RUN_FOLDER RANKS`, such as 1 and then 2. Each has one thread; give each a core.
The updates of the first of those batches, and how many forward and backward passes one rank makes of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from pilotrl.cli.stored_config import stored_config
from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.policy import Policy
from pilotrl.runs.run import Run
from pilotrl.runs.setup import load_model, model_path
from pilotrl.store.run_folder import RunFolder
from pilotrl.training import batch_file

TIMES = 3


def learned(policy: Policy, micro_batches: Iterable[MicroBatch]) -> tuple[float, int]:
    """Seconds, and tokens that were run."""
    begin, tokens = perf_counter(), 0
    for micro_batch in micro_batches:
        policy(micro_batch, 1.0).logprobs.sum().backward()
        tokens += len(micro_batch.ids)
    return perf_counter() - begin, tokens


def updated(folder: str, count: int) -> None:
    """Learn a batch several times, on so many ranks."""
    os.environ["OMP_NUM_THREADS"] = "1"  # else Lightning divides the cores among ranks
    torch.set_num_threads(1)
    run = RunFolder(Path(folder))
    batch, _ = batch_file.read(min(run.calls.glob("step-*.safetensors")))
    module, seconds, passes = Run(stored_config(run), run, None).module(), list[float](), 0
    scored, step = module.scored, module.training_step

    def counted(*given: Any, **counts: Any) -> Any:
        nonlocal passes
        passes += 1
        return scored(*given, **counts)

    def timed(*given: Any) -> None:
        begin = perf_counter()
        step(*given)
        seconds.append(perf_counter() - begin)

    module.scored, module.training_step = counted, timed  # type: ignore[method-assign]
    silent = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    several = {"devices": count, "strategy": "ddp" if count > 1 else "auto", "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, logger=False, use_distributed_sampler=False, **several, **silent)  # type: ignore[arg-type]
    batches: Any = [replace(batch, version=version, step=version) for version in range(TIMES)]
    for one in batches:
        one.ranks = count
    trainer.fit(module, DataLoader(batches, batch_size=None))
    if trainer.is_global_zero:
        print(f"{count} ranks: {min(seconds):.2f} seconds an update, {passes // TIMES} passes of each rank", flush=True)


def main(folder: str, count: str | None = None) -> None:
    if count is not None:
        updated(folder, int(count))
        return
    run = RunFolder(Path(folder))
    config, kept = stored_config(run), sorted(run.calls.glob("step-*.safetensors"))
    policy = Policy(load_model(config, model_path(config, run.path)), critic=False)
    print(f"{'step':>6} {'tokens alone':>13} {'in a trie':>10} {'seconds alone':>14} {'in a trie':>10}")
    for path in kept:
        batch, _ = batch_file.read(path)
        taken: dict[int, list[tuple[float, int]]] = {0: [], 1: []}
        for _ in range(TIMES):
            taken[0].append(learned(policy, (batch.micro_batch([row]) for row in range(len(batch.rows)))))
            taken[1].append(learned(policy, batch.micro_batches(range(len(batch.episodes)), config.train.micro_tokens)))
        (alone, many), (shared, few) = min(taken[0]), min(taken[1])
        print(f"{batch.step + 1:6} {many:13,} {few:10,} {alone:14.2f} {shared:10.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What it saves to run once what rows begin with alike: `python tests/speed.py RUN_FOLDER`, a batch that the run kept.

The same rows forwards and backwards, all in a trie and each by itself, by turns in one process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

from pilotrl.cli.stored_config import stored_config
from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.policy import Policy
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


def main(folder: str) -> None:
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

"""Several ranks: each has the whole model, or a part of its weights (`models/sharding.py`), plays and computes a share, and is
told what the others found.

    mine = share(specs)                    # this rank's episodes, which it plays
    episodes = everyones(played)           # those of all ranks, in the order of `specs`
    for _, micro_batch, weight in dealt(micro_batches): ...

After `everyones` all ranks hold the same, so whatever is counted of it is counted by each, without another word. Outside of a
process group there is one rank, which does everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from pilotrl.models.micro_batch import MicroBatch
from pilotrl.rollout import stopwatch

T = TypeVar("T")


def number() -> int:
    """Which rank this is, from 0; the first one writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """How many ranks there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def strategy(name: str, count: int) -> Any:
    """What Lightning calls `trainer.strategy`, for so many ranks. A checkpoint is one file, whichever it is."""
    if name != "fsdp":
        return name
    from lightning.pytorch.strategies import ModelParallelStrategy  # heavy, and who reads a run needs none

    return ModelParallelStrategy(data_parallel_size=count, tensor_parallel_size=1, save_distributed_checkpoint=False)


def share(things: Sequence[T]) -> Sequence[T]:
    """This rank's slice. Neighbours stay together: episodes of a group begin alike, which an engine computes once."""
    return things[len(things) * number() // count() : len(things) * (number() + 1) // count()]


def everyones(held: Sequence[T]) -> list[T]:
    """What all ranks hold, one rank after another. Every rank has to call it."""
    every = [held] * count()
    if len(every) > 1:
        stopwatch.phase("wait", watched=False)(distributed.all_gather_object)(every, held)
    return [*chain(*every)]


def summed(stats: Mapping[str, float]) -> dict[str, float]:
    """Stats added up over all ranks, of which one may lack some."""
    every = everyones([stats])
    return {name: sum(one.get(name, 0.0) for one in every) for name in dict.fromkeys(chain(*every))}


def dealt(micro_batches: Sequence[MicroBatch]) -> list[tuple[int, MicroBatch, float]]:
    """This rank's micro-batches: the index of each, and its weight. They are dealt by size, the largest first, so that what
    ranks run side by side is alike. Every rank has equally many: one that would have fewer runs another's, with weight 0."""
    order = sorted(range(len(micro_batches)), key=lambda index: -len(micro_batches[index].ids))
    passes = sorted(order[start : start + count()] for start in range(0, len(order), count()))
    mine = [(each[min(number(), len(each) - 1)], float(number() < len(each))) for each in passes]
    return [(index, micro_batches[index], weight) for index, weight in mine]


@torch.no_grad()
def computed(micro_batches: Sequence[MicroBatch], forward: Callable[[MicroBatch], Tensor]) -> list[Tensor]:
    """What a forward pass says of each micro-batch, in their order, whichever rank ran it."""
    mine = [(index, forward(micro_batch).cpu()) for index, micro_batch, _ in dealt(micro_batches)]
    return [found for _, found in sorted(dict(everyones(mine)).items())]

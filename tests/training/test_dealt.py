"""Which rank runs which micro-batch: each one counts once, and all ranks have equally many, of like sizes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pilotrl.training import ranks

SIZES = [30, 500, 410, 512, 7, 480, 500]


def micro_batches(sizes: list[int]) -> Any:
    return [SimpleNamespace(ids=torch.zeros(size)) for size in sizes]


def dealt(monkeypatch: pytest.MonkeyPatch, count: int, sizes: list[int]) -> list[list[tuple[int, int, float]]]:
    """Index, size and weight of what each of so many ranks runs."""
    monkeypatch.setattr(ranks, "count", lambda: count)
    shares = []
    for rank in range(count):
        monkeypatch.setattr(ranks, "number", lambda rank=rank: rank)
        shares.append([(index, len(one.ids), weight) for index, one, weight in ranks.dealt(micro_batches(sizes))])
    return shares


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_each_counts_once_and_ranks_have_equally_many(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    shares = dealt(monkeypatch, count, SIZES)
    assert {len(share) for share in shares} == {-(-len(SIZES) // count)}
    assert sorted(index for share in shares for index, _, weight in share if weight) == list(range(len(SIZES)))
    assert {weight for share in shares for _, _, weight in share} <= {0.0, 1.0}
    assert dealt(monkeypatch, count, []) == [[]] * count


def test_one_rank_keeps_the_order_and_several_run_like_sizes_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    (alone,) = dealt(monkeypatch, 1, SIZES)
    assert [index for index, _, _ in alone] == list(range(len(SIZES)))
    two = dealt(monkeypatch, 2, SIZES)
    assert sorted((a[1], b[1]) for a, b in zip(*two, strict=True)) == [(7, 7), (410, 30), (500, 480), (512, 500)]


def test_what_is_computed_comes_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def size(micro_batch: Any) -> Tensor:
        return torch.tensor(len(micro_batch.ids))

    held: list[Any] = []
    monkeypatch.setattr(ranks, "count", lambda: 3)
    monkeypatch.setattr(ranks, "everyones", lambda mine: held.extend(mine) or held)
    for rank in range(3):
        monkeypatch.setattr(ranks, "number", lambda rank=rank: rank)
        found = ranks.computed(micro_batches(SIZES), size)
    assert [int(one) for one in found] == SIZES

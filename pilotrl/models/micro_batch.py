"""The micro-batch: the tokens of one forward pass in training, with shared prefixes stored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pilotrl.models.prefix import common


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass, packed as a trie of T tokens (shared prefixes once), with N trained tokens of M calls."""

    ids: Tensor
    """[T] token ids, row by row; of each row without the prefix that it shares with the row before."""
    position: Tensor
    """[T] positions in their rows."""
    fresh: list[int]
    """Of each row: how many of its tokens, the last ones, are not in the prefix shared with the row before."""
    lengths: list[int]
    """Of each row: how many tokens it has in all."""
    path: Tensor
    """[sum of lengths] index into the T of each token of each row, row by row."""
    sampled: Tensor
    """[N] ids of the trained tokens."""
    token_state: Tensor
    """[N] index into the T of the token before each trained token, whose logits predict it."""
    token_call: Tensor
    """[N] call of each trained token, an index into the batch's calls."""
    logprobs: Tensor
    """[N] log-probabilities, as recorded when sampling."""
    recomputed: Tensor
    """[N] the same by the learner, before it learned from them; empty where nobody asked."""
    call: Tensor
    """[M] the calls in these rows, indices into the batch's."""
    call_state: Tensor
    """[M] index into the T of the last token of each call's prompt, where the value head reads."""
    adapter: str | None
    """The adapter of all these rows."""

    @classmethod
    def of(cls, rows: Sequence[list[int]], trained: range, adapter: str | None = None) -> MicroBatch:
        """Rows of one length, each with a call whose tokens stand at the places `trained`; nothing is recorded of them."""
        trie, count, nothing = packed(rows), torch.arange(len(rows)), torch.empty(0)
        spot = (count * len(rows[0]))[:, None] + torch.tensor(trained)
        return cls(
            **trie,
            sampled=trie["ids"][trie["path"][spot.flatten()]],
            token_state=trie["path"][spot.flatten() - 1],
            token_call=count.repeat_interleave(len(trained)),
            logprobs=nothing,
            recomputed=nothing,
            call=count,
            call_state=trie["path"][spot[:, 0] - 1],
            adapter=adapter,
        )

    def to(self, device: torch.device) -> MicroBatch:
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def packed(rows: Sequence[list[int]]) -> dict[str, Any]:
    """What a micro-batch of these rows runs, by field: what a row begins with as the one before it does is not run again."""
    ids, position, fresh, path, before = (list[int]() for _ in range(5))
    for row in rows:
        same = common(before, row)
        path += [*path[len(path) - len(before) :][:same], *range(len(ids), len(ids) + len(row) - same)]
        ids += row[same:]
        position += range(same, len(row))
        fresh.append(len(row) - same)
        before = row
    run = {"ids": torch.tensor(ids), "position": torch.tensor(position), "fresh": fresh}
    return {**run, "lengths": [*map(len, rows)], "path": torch.tensor(path)}

"""The micro-batch: the tokens of one forward pass in training, with shared prefixes stored once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


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

    def to(self, device: torch.device) -> MicroBatch:
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

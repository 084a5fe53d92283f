"""What one forward pass takes: rows of tokens, those that they begin with alike once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass, laid out as a trie: T tokens, those that rows begin with alike once, and what is trained."""

    ids: Tensor
    """[T] row by row, of each what the row before it does not begin with."""
    position: Tensor
    """[T] places in their rows."""
    fresh: list[int]
    """Of each row: how many of its tokens, the last ones, are new among the T ..."""
    lengths: list[int]
    """... how many it has in all ..."""
    path: Tensor
    """[sum of lengths] ... and where among the T each of them stands."""
    sampled: Tensor
    """[N] ids of the trained tokens."""
    token_state: Tensor
    """[N] where among the T the token before each of them stands, whose logits predict it."""
    token_call: Tensor
    """[N] call of each trained token, an index into the batch's calls."""
    logprobs: Tensor
    """[N] as recorded when sampling."""
    call: Tensor
    """[M] the calls in these rows, indices into the batch's."""
    call_state: Tensor
    """[M] where the last token of each call's prompt stands, at which its value is read."""
    adapter: str | None
    """The one that all these rows are run under."""

    def to(self, device: torch.device) -> MicroBatch:
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

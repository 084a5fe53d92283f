"""One attention function for learning and for generating, registered with transformers as `pilotrl`.

Learning: rows as a trie in one flat row, what several begin with once, as linear layers see it; each row's new tokens then
attend to all of that row. There is no padding, and the gradient of what is shared adds up by itself.
Generating: the new tokens of many sequences lie side by side in one flat row; their keys and values go into slots that
stay where they are between calls. Linear layers then see no padding, and a decoded token costs no copy of its past.
Any decoder of transformers that goes through its attention interface works; a model with sliding windows does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

AHEAD = 4
"""New tokens of a sequence that is being generated, at most; a prompt mostly brings more."""


@dataclass(frozen=True)
class Span:
    """New tokens of some slots which are attended to together, up to n each."""

    slots: Tensor
    """[S] of the cache."""
    width: int
    """Reading the first `width` slots of the cache, without a copy, is cheapest; 0: picking these slots out is."""
    flat: Tensor
    """[S, n] index of each new token in the flat row; padding repeats the last one."""
    mask: Tensor
    """[S, 1, n, longest of these] additive: 0 where a token may look, -inf elsewhere."""


class Cache:
    """Keys and values of `slots` sequences: [slots, kv heads, length, head dim] a layer, the length grown as needed."""

    def __init__(self, slots: int) -> None:
        self.slots, self.length = slots, 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def place(self, slots: list[int], starts: list[int], counts: list[int], device: torch.device) -> Tensor:
        """Say where the tokens of the next forward pass belong: counts[i] of them behind starts[i] in slots[i].

        Returns their positions, [1, T].
        """
        longest = max(start + count for start, count in zip(starts, counts, strict=True))
        if longest > self.length:
            self.length = -(-longest // 256) * 256
            self.keys = [self._grown(old) for old in self.keys]
            self.values = [self._grown(old) for old in self.values]
        count, start = torch.tensor(counts, device=device), torch.tensor(starts, device=device)
        first = count.cumsum(0) - count
        self.slot = torch.tensor(slots, device=device).repeat_interleave(count)
        inside = torch.arange(len(self.slot), device=device) - first.repeat_interleave(count)
        self.position = start.repeat_interleave(count) + inside
        sizes: dict[int, list[int]] = {}
        for i, n in enumerate(counts):
            sizes.setdefault((max(n, AHEAD) - 1).bit_length(), []).append(i)  # alike lengths together: little padding
        self.spans = [self._span(members, slots, start, count, first) for members in sizes.values()]
        return self.position.unsqueeze(0)

    def _span(self, members: list[int], slots: list[int], start: Tensor, count: Tensor, first: Tensor) -> Span:
        index = torch.tensor(members, device=start.device)
        start, count, first = start[index], count[index], first[index]
        n, longest = int(count.max()), int((start + count).max())
        step = torch.minimum(torch.arange(n, device=start.device), count[:, None] - 1)
        hidden = torch.arange(longest, device=start.device) > (start[:, None] + step)[:, None, :, None]
        mask = torch.zeros(hidden.shape, device=start.device).masked_fill_(hidden, -torch.inf)
        own = [slots[i] for i in members]
        width = max(own) + 1 if n <= AHEAD and 2 * max(own) < 3 * len(own) else 0
        return Span(torch.tensor(own, device=start.device), width, first[:, None] + step, mask)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of flat queries [1, heads, T, dim] over their slots; returns [1, T, heads, dim]."""
        while layer >= len(self.keys):
            for kept, new in ((self.keys, key), (self.values, value)):
                kept.append(new.new_zeros(self.slots, new.shape[1], self.length, new.shape[3]))
        self.keys[layer][self.slot, :, self.position] = key[0].transpose(0, 1)
        self.values[layer][self.slot, :, self.position] = value[0].transpose(0, 1)
        flat = query[0].transpose(0, 1)
        out = torch.empty_like(flat)
        for span in self.spans:
            out[span.flat] = self._attend(span, layer, flat[span.flat], scale)
        return out.unsqueeze(0)

    def _attend(self, span: Span, layer: int, query: Tensor, scale: float) -> Tensor:
        """[S, n, heads, dim]. The heads that share a key are extra queries of it, so that nothing is repeated."""
        count, n, heads, dim = query.shape
        longest = span.mask.shape[3]
        keys, values = self.keys[layer][:, :, :longest], self.values[layer][:, :, :longest]
        group = heads // keys.shape[1]
        query = query.view(count, n, -1, group, dim).permute(0, 2, 3, 1, 4).reshape(count, -1, group * n, dim)
        mask = span.mask.to(query.dtype)
        mask = mask.repeat(1, 1, group, 1) if n > 1 else mask
        if span.width:
            query = query.new_zeros(span.width, *query.shape[1:]).index_copy_(0, span.slots, query)
            mask = mask.new_zeros(span.width, *mask.shape[1:]).index_copy_(0, span.slots, mask)
            keys, values = keys[: span.width], values[: span.width]
        else:
            keys, values = keys[span.slots], values[span.slots]
        seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        seen = seen[span.slots] if span.width else seen
        return seen.view(count, -1, group, n, dim).permute(0, 3, 1, 2, 4).reshape(count, n, heads, dim)

    def _grown(self, old: Tensor) -> Tensor:
        new = old.new_zeros(*old.shape[:2], self.length, old.shape[3])
        new[:, :, : old.shape[2]] = old
        return new


@dataclass(frozen=True)
class Trie:
    """Which tokens of a flat row attend to which: see `Micro`, whose columns these are."""

    fresh: list[int]
    lengths: list[int]
    path: Tensor

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of flat queries [1, heads, T, dim], each over its own row up to itself; returns [1, T, heads, dim]."""
        group = query.shape[1] // key.shape[1]
        rows = (x[:, :, self.path].repeat_interleave(group, dim=1).split(self.lengths, dim=2) for x in (key, value))
        queries = query.split(self.fresh, dim=2)
        seen = [_last(q, k, v, scale) for q, k, v in zip(queries, *rows, strict=True) if q.shape[2]]
        return torch.cat(seen, dim=2).transpose(1, 2)


def _last(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of a row's last tokens, each to all up to itself."""
    new, length = query.shape[2], key.shape[2]
    seen = None if new == length else torch.ones(new, length, dtype=torch.bool, device=query.device).tril(length - new)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=seen is None, scale=scale)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    cache: Cache | None = None,
    trie: Trie | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [B, heads, T, dim], key and value [B, kv heads, T, dim]."""
    if cache is not None:
        return cache.attend(int(module.layer_idx), query, key, value, scaling), None  # type: ignore[arg-type]
    rows = trie or Trie([query.shape[2]], [query.shape[2]], torch.arange(query.shape[2], device=query.device))
    return rows.attend(query, key, value, scaling), None


AttentionInterface.register("pilotrl", attend)

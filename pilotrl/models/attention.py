"""The attention function for training and generation, with its KV cache, registered with transformers as `pilotrl`.

Training: the rows of a micro-batch form a trie, packed into one flat row in which a shared prefix is computed once; the new
tokens of each row then attend to the whole row. There is no padding, and gradients of shared prefixes add up by autograd.
Generation: the new tokens of many sequences are packed into one flat row; their keys and values go into slots of a cache
that stay in place between calls. Linear layers see no padding, and a decoded token does not copy its past.
Works with any transformers decoder that uses the attention interface, except models with sliding windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from pilotrl.models.blockwise import blockwise, pays

AHEAD = 4
"""New tokens a step of a sequence in decoding, at most; a sequence with more is in prefill."""
BLOCK = 32
"""Decoding reads so many neighbouring slots together, up to the longest of them."""
WINDOWED = "window_size" in signature(varlen_attn).parameters
"""Whether this torch's `varlen_attn` takes the arguments of 2.13."""


@dataclass(frozen=True)
class Span:
    """Slots of the cache whose new tokens, up to n each, share one attention call."""

    slots: slice | Tensor
    """W slots of the cache: a slice, which is read without a copy, or their indices [W], which are gathered."""
    tokens: Tensor
    """[W, n] index of each new token in the flat row; padding repeats the last one, slots without new tokens hold any."""
    rows: Tensor
    """[S] indices of those of the W slots that have new tokens."""
    mask: Tensor
    """[W, 1, n, longest of these slots] additive attention mask: 0 or -inf."""

    def grouped(self, group: int, dtype: torch.dtype) -> Span:
        """For grouped-query attention: the `group` heads that share a key become extra queries, so keys are not repeated."""
        mask = self.mask.to(dtype)
        return replace(self, mask=mask.repeat(1, 1, group, 1) if mask.shape[2] > 1 else mask)


class Cache:
    """The KV cache of `slots` sequences: [slots, kv heads, length, head dim] a layer, the length grown as needed."""

    def __init__(self, slots: int) -> None:
        self.slots, self.length = slots, 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def place(self, slots: list[int], starts: list[int], counts: list[int], device: torch.device) -> Tensor:
        """Set where the tokens of the next forward pass are stored: counts[i] of them, from position starts[i] of slots[i].

        Returns their positions, [1, T].
        """
        longest = max(start + count for start, count in zip(starts, counts, strict=True))
        if longest > self.length:
            self.length = -(-longest // 256) * 256
            grown = [[F.pad(x, (0, 0, 0, self.length - x.shape[2])) for x in kept] for kept in (self.keys, self.values)]
            self.keys, self.values = grown
        count, start = torch.tensor(counts, device=device), torch.tensor(starts, device=device)
        first = count.cumsum(0) - count
        self.slot = torch.tensor(slots, device=device).repeat_interleave(count)
        inside = torch.arange(len(self.slot), device=device) - first.repeat_interleave(count)
        self.position = start.repeat_interleave(count) + inside
        buckets: dict[tuple[int, int], list[int]] = {}
        for i, n in enumerate(counts):  # similar lengths together, for little padding
            bucket = (0, slots[i] // BLOCK) if n <= AHEAD else ((n - 1).bit_length(), 0)
            buckets.setdefault(bucket, []).append(i)
        self.spans = [self._span(members, slots, start, count, first) for members in buckets.values()]
        return self.position.unsqueeze(0)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the keys and values of the first `count` tokens of one slot to another."""
        for kept in (*self.keys, *self.values):
            kept[target, :, :count] = kept[source, :, :count]

    def _span(self, members: list[int], slots: list[int], start: Tensor, count: Tensor, first: Tensor) -> Span:
        index = torch.tensor(members, device=start.device)
        start, count, first = start[index], count[index], first[index]
        n, longest = int(count.max()), int((start + count).max())
        step = torch.minimum(torch.arange(n, device=start.device), count[:, None] - 1)
        hidden = torch.arange(longest, device=start.device) > (start[:, None] + step)[:, None, :, None]
        mask = torch.zeros(hidden.shape, device=start.device).masked_fill_(hidden, -torch.inf)
        own = torch.tensor([slots[i] for i in members], device=start.device)
        low, high = int(own.min()), int(own.max()) + 1
        rows, tokens = torch.arange(len(own), device=start.device), first[:, None] + step
        if n > AHEAD or 2 * (high - low) > 3 * len(own):
            return Span(own, tokens, rows, mask)
        rows, width = own - low, high - low
        tokens = tokens.new_zeros(width, n).index_copy_(0, rows, tokens)
        return Span(slice(low, high), tokens, rows, mask.new_zeros(width, *mask.shape[1:]).index_copy_(0, rows, mask))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Causal attention of packed queries [1, heads, T, dim] over their slots; returns [1, T, heads, dim]."""
        while layer >= len(self.keys):
            for kept, new in ((self.keys, key), (self.values, value)):
                kept.append(new.new_zeros(self.slots, new.shape[1], self.length, new.shape[3]))
        if not layer:
            self.spans = [span.grouped(query.shape[1] // key.shape[1], query.dtype) for span in self.spans]
        self.keys[layer][self.slot, :, self.position] = key[0].transpose(0, 1)
        self.values[layer][self.slot, :, self.position] = value[0].transpose(0, 1)
        flat = query[0].transpose(0, 1)
        out = torch.empty_like(flat)
        way = self._attend if query.dtype == torch.float32 else self._in_half
        for span in self.spans:
            out[span.tokens[span.rows]] = way(span, layer, flat[span.tokens], scale)[span.rows]
        return out.unsqueeze(0)

    def _attend(self, span: Span, layer: int, query: Tensor, scale: float) -> Tensor:
        """[W, n, heads, dim], as the query."""
        count, n, heads, dim = query.shape
        keys, values = (kept[layer][span.slots, :, : span.mask.shape[3]] for kept in (self.keys, self.values))
        group = heads // keys.shape[1]
        query = query.view(count, n, -1, group, dim).permute(0, 2, 3, 1, 4).reshape(count, -1, group * n, dim)
        seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=span.mask, scale=scale)
        return seen.view(count, -1, group, n, dim).permute(0, 3, 1, 2, 4).reshape(count, n, heads, dim)

    def _in_half(self, span: Span, layer: int, query: Tensor, scale: float) -> Tensor:
        """The same where numbers are not float32: prefill goes by blocks where that pays."""
        way = self._in_blocks if query.shape[1] > AHEAD and pays(query) else self._attend
        return way(span, layer, query, scale)

    def _in_blocks(self, span: Span, layer: int, query: Tensor, scale: float) -> Tensor:
        """The same, a slot at a time."""
        out, slots = torch.empty_like(query), self.slot[span.tokens[:, 0]].tolist()
        starts, ends = (self.position[span.tokens[:, place]].tolist() for place in (0, -1))
        for asked, seen, slot, start, end in zip(query, out, slots, starts, ends, strict=True):
            new, length = end - start + 1, end + 1
            keys, values = (kept[layer][slot, :, :length] for kept in (self.keys, self.values))
            seen[:new] = blockwise(asked[:new].transpose(0, 1), keys, values, scale).transpose(0, 1)
            seen[new:] = seen[new - 1].clone()  # as `Span.tokens` repeats the last one, both are written to its place
        return out


@dataclass(frozen=True)
class Trie:
    """Which tokens of a packed micro-batch attend to which; the fields are those of `MicroBatch`."""

    fresh: list[int]
    lengths: list[int]
    path: Tensor

    @cached_property
    def masks(self) -> list[Tensor | None]:
        """[new, length] bool attention mask of each row, made once for all layers; None if all its tokens are new."""
        sizes = zip(self.fresh, self.lengths, strict=True)
        whole = partial(torch.ones, dtype=torch.bool, device=self.path.device)
        return [None if new == length else whole(new, length).tril(length - new) for new, length in sizes]

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Where new tokens, and all tokens, of each row begin and end: int32 [rows + 1] each, made once for all layers."""
        sizes = (torch.tensor([0, *counts], device=self.path.device) for counts in (self.fresh, self.lengths))
        new, all_of_them = (size.cumsum(0, dtype=torch.int32) for size in sizes)
        return new, all_of_them

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Causal attention of packed queries [1, heads, T, dim] within their rows; returns [1, T, heads, dim]."""
        keys, values = (x[:, :, self.path].repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        packed = (query, self.fresh), (keys, self.lengths), (values, self.lengths)
        rows = (torch.split(x, n, dim=2) for x, n in packed)
        seen = [
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
            for q, k, v, mask in zip(*rows, self.masks, strict=True)
            if q.shape[2]
        ]
        return torch.cat(seen, dim=2).transpose(1, 2)

    def in_half(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """The same where numbers are not float32, by what is fastest on the device."""
        if query.is_cuda and flash_attention_takes(query):
            return self.at_once(query, key, value, scale)
        return (self.in_blocks if pays(query) else self.attend)(query, key, value, scale)

    def in_blocks(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """The same by `blockwise`."""
        queries = torch.split(query[0], self.fresh, dim=1)
        keys, values = (torch.split(x[0, :, self.path], self.lengths, dim=1) for x in (key, value))
        seen = [blockwise(*row, scale) for row in zip(queries, keys, values, strict=True) if row[0].shape[1]]
        return torch.cat(seen, dim=1).transpose(0, 1)[None]

    def at_once(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """The same by one call of flash attention, whose causal mask is aligned to the end of each row."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key[:, :, self.path], value[:, :, self.path]))
        sizes: Any = (*self.ends, max(self.fresh), max(self.lengths))
        seen: Tensor = varlen_attn(q, k, v, *sizes, scale=scale, window_size=(-1, 0), enable_gqa=True)  # type: ignore[assignment]
        return seen[None]


def flash_attention_takes(query: Tensor) -> bool:
    """Whether the kernel of `Trie.at_once` computes in these numbers, with such heads and on this card."""
    half, dim = query.dtype in (torch.float16, torch.bfloat16), query.shape[3]
    fits = WINDOWED and half and dim % 8 == 0 and dim <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


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
    way = rows.attend if trie is None or query.dtype == torch.float32 else rows.in_half
    return way(query, key, value, scaling), None


AttentionInterface.register("pilotrl", attend)

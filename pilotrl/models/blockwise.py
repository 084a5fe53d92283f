"""Causal attention in bfloat16 on a CPU, by products of whole blocks of queries with all keys that they see.

torch's own kernel there took 1.4 times as long for a row of a thousand tokens with the heads of SmolLM2, and 1.7 times where a
prefix is shared, as it computes what its mask hides (forward and backward, on a processor with AVX512-BF16). Scores and their
distributions are float32, as in torch's; nothing of the size of a block is kept for the backward pass, which computes it again
(FlashAttention, arXiv 2205.14135, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 192
"""Queries of a product, those of all heads that share a key together."""


class Block(NamedTuple):
    """Some queries of all G heads that share a key."""

    head: int
    """Of the key."""
    queries: slice
    seen: int
    """How many of the L keys the last of them sees."""
    shares: Tensor
    """[G x queries, seen] the distribution of each over the keys, in float32."""


def blocks(query: Tensor, key: Tensor, scale: float) -> Iterator[Block]:
    """query: [heads of keys, G, n, dim], the last n of a row; key: [heads of keys, L, dim]."""
    _, group, count, dim = query.shape
    size, wide = max(1, BLOCK // group), torch.promote_types(query.dtype, torch.float32)
    later = torch.ones(size, size, dtype=torch.bool).triu_(1)
    for head, keys in enumerate(key.to(wide).mul(scale).mT):
        for first in range(0, count, size):
            some = slice(first, min(first + size, count))
            n, seen = some.stop - first, key.shape[1] - count + some.stop
            scores = query[head, :, some].reshape(-1, dim).to(wide) @ keys[:, :seen]
            scores.view(group, n, seen)[:, :, seen - n :].masked_fill_(later[:n, :n], -torch.inf)
            yield Block(head, some, seen, scores.softmax(-1))


class Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        out = query.new_empty(*query.shape[:3], value.shape[2])
        for head, some, seen, shares in blocks(query, key, scale):
            out[head, :, some] = (shares.to(value.dtype) @ value[head, :seen]).view_as(out[head, :, some])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = ctx.saved_tensors
        wide = torch.promote_types(query.dtype, torch.float32)
        to_query, to_key, to_value = torch.empty_like(query), *(torch.zeros_like(x, dtype=wide) for x in (key, value))
        for head, some, seen, shares in blocks(query, key, ctx.scale):
            asked, came = (x[head, :, some].flatten(0, 1) for x in (query, gradient))
            to_value[head, :seen] += shares.to(came.dtype).mT @ came
            to_shares = (came @ value[head, :seen].mT).to(wide)
            to_scores = torch._softmax_backward_data(to_shares, shares, -1, wide).to(came.dtype)
            to_key[head, :seen] += to_scores.mT @ asked
            to_query[head, :, some] = (to_scores @ key[head, :seen]).view_as(query[head, :, some])
        return to_query.mul_(ctx.scale), to_key.mul_(ctx.scale).to(key.dtype), to_value.to(value.dtype), None


def blockwise(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """[heads, n, dim] of the last n of a row, with gradient: query [heads, n, dim]; key and value [heads of keys, L, dim],
    where that of values may be another."""
    seen: Tensor = Blockwise.apply(query.reshape(len(key), -1, *query.shape[1:]), key, value, scale)  # type: ignore[no-untyped-call]
    return seen.flatten(0, 1)


def pays(query: Tensor) -> bool:
    """Whether this is for such queries: in float32 torch's own kernel is as fast."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16

"""Causal attention in bfloat16 on a CPU, by products of whole blocks of queries with all keys that they see.

torch's own kernel there took 2.4 times as long for a row of a thousand tokens with the heads of SmolLM2, and 3.1 times where
300 of them are shared, as it computes what its mask hides (forward and backward, on a processor with AVX512-BF16). Scores are
float32, as in torch's, and have to be finite. For the backward pass of a row that is not long, distributions over its keys are
kept; those of a longer one are computed again (FlashAttention, arXiv 2205.14135, section 3.1), to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 384
"""Queries of a product, those of all heads that share a key together."""
LONG = 2048
"""Keys of a row from which on nothing is kept for the backward pass: a lower number takes less memory and more time."""
ALONE = Lock()
"""Of who has switched `factors_in_bfloat16` on."""


class Block(NamedTuple):
    """Some queries of all G heads that share a key."""

    head: int
    """Of the key."""
    queries: slice
    seen: int
    """How many of the L keys the last of them sees."""
    shares: Tensor
    """[G x queries, seen] the distribution of each over the keys, in the dtype of the queries."""


@contextmanager
def factors_in_bfloat16() -> Iterator[None]:
    """Meanwhile oneDNN multiplies float32 matrices, and may round factors to bfloat16, never sums. Where factors were bfloat16
    before, nothing is lost, and it took half of MKL's time (on an AMD processor, where nothing was rounded either). It holds for
    the whole process: a thread that comes while another one is in here waits."""
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with ALONE:
        before, products.fp32_precision = products.fp32_precision, "bf16"
        try:
            yield
        finally:
            products.fp32_precision = before


def blocks(query: Tensor, key: Tensor, scale: float, kept: Sequence[Tensor] = ()) -> Iterator[Block]:
    """query: [heads of keys, G, n, dim], the last n of a row; key: [heads of keys, L, dim]; kept: the shares of all blocks."""
    heads, group, count, _ = query.shape
    size, known = max(1, BLOCK // group), iter(kept)
    wide = torch.promote_types(query.dtype, torch.float32)
    keys = None if kept else key.to(wide).mT
    later = torch.full((size, size), -torch.inf, dtype=wide).triu_(1)
    for head in range(heads):
        for first in range(0, count, size):
            some = slice(first, min(first + size, count))
            n, seen = some.stop - first, key.shape[1] - count + some.stop
            if keys is None:
                shares = next(known)
            else:
                asked = query[head, :, some].flatten(0, 1).to(wide)
                with factors_in_bfloat16():
                    scores = (asked @ keys[head, :, :seen]).mul_(scale)
                scores.view(group, n, seen)[:, :, seen - n :].add_(later[:n, :n])
                shares = scores.softmax(-1).to(query.dtype)
            yield Block(head, some, seen, shares)


class Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = query.new_empty(*query.shape[:3], value.shape[2])
        kept = []
        for head, some, seen, shares in blocks(query, key, scale):
            out[head, :, some] = (shares @ value[head, :seen]).view_as(out[head, :, some])
            kept += [shares] if key.shape[1] < LONG else []
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *kept = ctx.saved_tensors
        wide = torch.promote_types(query.dtype, torch.float32)
        to_query, to_key, to_value = torch.empty_like(query), *(torch.zeros_like(x, dtype=wide) for x in (key, value))
        # What all values have in common is no reason to see one rather than another: without it less is lost by rounding.
        about = (value.to(wide) - value.to(wide).mean(1, keepdim=True)).to(value.dtype)
        for head, some, seen, shares in blocks(query, key, ctx.scale, kept):
            asked, came = (x[head, :, some].flatten(0, 1) for x in (query, gradient))
            to_value[head, :seen] += shares.mT @ came
            to_shares = came @ about[head, :seen].mT
            to_scores = torch._softmax_backward_data(to_shares, shares, -1, query.dtype)
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

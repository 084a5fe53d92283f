"""Attention of a trie's rows in one call of torch's flash attention, against a call a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pilotrl.models.attention import Trie, flash_attention_takes
from pilotrl.models.micro_batch import packed

ROWS = [[1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 6], [7, 8], [7, 8, 9, 10, 11, 12]]
"""The third has no token of its own."""
HEADS, KEYS, DIM = 6, 2, 16


def by_its_documentation(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    most: int,
    most_keys: int,
    **more: Any,
) -> Tensor:
    """What the docstring of `varlen_attn` says, of float32: [T, heads, dim]. Causal is aligned to the end of the keys."""
    assert (more["window_size"], more["enable_gqa"]) == ((-1, 0), True)
    assert starts.dtype == key_starts.dtype == torch.int32
    assert (most, most_keys) == (int(starts.diff().max()), int(key_starts.diff().max()))
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    seen = []
    for row in range(len(starts) - 1):
        mine, all_of_it = query[starts[row] : starts[row + 1]], slice(int(key_starts[row]), int(key_starts[row + 1]))
        score = torch.einsum("qhd,khd->hqk", mine, key[all_of_it]) * more["scale"]
        late = torch.ones(score.shape[1:], dtype=torch.bool).triu(score.shape[2] - score.shape[1] + 1)
        seen.append(torch.einsum("hqk,khd->qhd", score.masked_fill(late, -torch.inf).softmax(-1), value[all_of_it]))
    return torch.cat(seen)


def both(device: str, dtype: torch.dtype) -> list[list[Tensor]]:
    """Of a call a row, and of one call: the result, and gradients of query, key and value."""
    rows, draw = packed(ROWS), torch.Generator().manual_seed(0)
    trie = Trie(rows["fresh"], rows["lengths"], rows["path"].to(device))
    found = list[list[Tensor]]()
    given = [torch.randn(1, heads, len(rows["ids"]), DIM, generator=draw) for heads in (HEADS, KEYS, KEYS, HEADS)]
    for way in (trie.attend, trie.at_once):
        *inputs, weight = (x.to(device, dtype).requires_grad_() for x in given)
        seen = way(*inputs, DIM**-0.5)
        (seen.transpose(1, 2) * weight.detach()).sum().backward()
        found.append([seen, *(x.grad for x in inputs)])  # type: ignore[list-item]
    return found


def test_all_rows_at_once_are_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotrl.models.attention.varlen_attn", by_its_documentation)
    for one, other in zip(*both("cpu", torch.float32), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: flash attention has no other device")
def test_flash_attention_sees_what_a_call_a_row_does(tell: Callable[[str], None]) -> None:
    """Beyond what bfloat16 rounds away: against float32, one call is no farther off than twice what a call a row is."""
    exact, _ = both("cuda", torch.float32)
    rows, at_once = both("cuda", torch.bfloat16)
    assert flash_attention_takes(torch.empty(1, HEADS, 1, DIM, device="cuda", dtype=torch.bfloat16))
    for true, one, other in zip(exact, rows, at_once, strict=True):
        allowed = 2 * (true - one.float()).abs().max() + 1e-3
        assert (true - other.float()).abs().max() <= allowed
    tell(f"flash attention on {torch.cuda.get_device_name()}")


def test_what_the_kernel_does_not_take_goes_row_by_row() -> None:
    assert not flash_attention_takes(torch.empty(1, HEADS, 1, DIM))
    assert not flash_attention_takes(torch.empty(1, HEADS, 1, 12, dtype=torch.bfloat16))

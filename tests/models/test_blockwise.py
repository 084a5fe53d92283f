"""Attention by blocks, against torch's own of each row: what is seen, its gradients, and where it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pilotrl.engine.local import LocalEngine
from pilotrl.models import attention, blockwise, policy
from pilotrl.models.attention import Cache, Trie
from pilotrl.models.micro_batch import MicroBatch, packed
from pilotrl.models.policy import Policy
from pilotrl.types import Request

KEYS, DIM, SCALE = 2, 8, 0.3


def given(new: int, length: int, group: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Values have another width."""
    draw = torch.Generator().manual_seed(new)
    shapes = ((KEYS * group, new, DIM), (KEYS, length, DIM), (KEYS, length, DIM + 3))
    return [torch.randn(*shape, generator=draw).to(dtype).requires_grad_() for shape in shapes]


def by_torch(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    new, length = query.shape[1], key.shape[1]
    key, value = (x.repeat_interleave(len(query) // len(x), dim=0) for x in (key, value))
    mask = torch.ones(new, length, dtype=torch.bool).tril(length - new)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


@pytest.mark.parametrize("long", [0, 2048])
@pytest.mark.parametrize("block", [1, 7, 192])
@pytest.mark.parametrize(("new", "length", "group"), [(1, 1, 1), (1, 9, 3), (23, 23, 3), (10, 23, 1), (300, 310, 2)])
def test_it_is_torchs_own_in_double_precision(
    new: int, length: int, group: int, block: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "BLOCK", block)
    monkeypatch.setattr(blockwise, "LONG", long)
    found = []
    for way in (by_torch, blockwise.blockwise):
        inputs = given(new, length, group)
        seen = way(*inputs, SCALE)
        (seen * torch.linspace(-1, 1, seen.numel(), dtype=seen.dtype).view_as(seen)).sum().backward()
        found.append([seen, *(x.grad for x in inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_query_sees_nothing_later_and_its_gradient_reaches_nothing_later() -> None:
    query, key, value = given(40, 50, 3)
    seen = blockwise.blockwise(query, key, value, SCALE)
    seen[:, 20].sum().backward()  # the 31st of the row
    assert key.grad is not None
    assert value.grad is not None
    assert value.grad[:, :31].abs().min() > 0
    assert not value.grad[:, 31:].any()
    assert not key.grad[:, 31:].any()


def test_in_bfloat16_it_differs_by_rounding() -> None:
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [x.detach().to(dtype).requires_grad_() for x in given(300, 400, 3, torch.bfloat16)]
        seen = blockwise.blockwise(*inputs, SCALE)
        seen.square().sum().backward()
        found.append([x.double() for x in (seen, *(x.grad for x in inputs))])  # type: ignore[union-attr]
    for true, rounded in zip(*found, strict=True):
        assert 0 < (rounded - true).norm() < 2**-6 * true.norm()


def test_what_is_computed_again_for_the_backward_pass_is_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for long in (400, 401):
        monkeypatch.setattr(blockwise, "LONG", long)
        inputs = [x.detach().requires_grad_() for x in given(300, 400, 3, torch.bfloat16)]
        seen = blockwise.blockwise(*inputs, SCALE)
        found.append([seen, *torch.autograd.grad(seen.square().sum(), inputs)])
    for again, kept in zip(*found, strict=True):
        assert torch.equal(again, kept)


def test_scores_are_not_rounded_to_bfloat16() -> None:
    """Those of a query differ by about 1 and are all beyond 200, as with the large biases of some models: rounded they would be
    off by up to a half."""
    query, key, value = (x.detach().float() for x in given(100, 100, 3, torch.bfloat16))
    query[:, :, 0], key[:, :, 0] = 16, 48
    seen = blockwise.blockwise(query.bfloat16(), key.bfloat16(), value.bfloat16(), SCALE)
    true = by_torch(*(x.bfloat16().double() for x in (query, key, value)), SCALE)
    assert (seen.double() - true).norm() < 2**-7 * true.norm()


def test_what_values_have_in_common_does_not_blur_the_gradient_of_queries() -> None:
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        query, key, value = (x.detach() for x in given(300, 300, 3))
        inputs = [x.bfloat16().to(dtype).requires_grad_() for x in (6 * query, key, value + 8)]
        seen = blockwise.blockwise(*inputs, SCALE)
        (seen * torch.linspace(-1, 1, seen.numel()).bfloat16().to(dtype).view_as(seen)).sum().backward()
        found.append(inputs[0].grad.double())  # type: ignore[union-attr]
    true, rounded = found
    assert (rounded - true).norm() < 2**-6 * true.norm()


def test_it_has_no_second_derivative() -> None:
    inputs = given(5, 5, 1)
    (first,) = torch.autograd.grad(blockwise.blockwise(*inputs, SCALE).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_no_other_product_is_of_rounded_factors() -> None:
    before, draw = torch.backends.mkldnn.matmul.fp32_precision, torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 200, 200, generator=draw)
    blockwise.blockwise(*given(20, 20, 3, torch.bfloat16), SCALE).sum().backward()
    with pytest.raises(ValueError, match="gone"), blockwise.factors_in_bfloat16():
        raise ValueError("gone")
    assert ((first @ second).double() - first.double() @ second.double()).abs().max() < 1e-3
    assert torch.backends.mkldnn.matmul.fp32_precision == before != "bf16"


def test_rows_that_share_a_prefix_are_each_by_itself() -> None:
    rows = packed([[1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 6], [7, 8], [7, 8, 9, 10, 11, 12]])
    trie = Trie(rows["fresh"], rows["lengths"], rows["path"])
    inputs = [torch.randn(1, heads, len(rows["ids"]), DIM, dtype=torch.float64) for heads in (6, KEYS, KEYS)]
    torch.testing.assert_close(trie.in_blocks(*inputs, SCALE), trie.attend(*inputs, SCALE))


def test_it_is_for_bfloat16_on_a_cpu() -> None:
    assert blockwise.pays(torch.empty(1, dtype=torch.bfloat16))
    assert not blockwise.pays(torch.empty(1))
    assert not blockwise.pays(torch.empty(1, dtype=torch.bfloat16, device="meta"))


def filled(sizes: dict[int, tuple[int, int]]) -> Callable[[], Tensor]:
    """What the new tokens of slots see in a cache that has their earlier ones: by slot, how many old and new."""
    draw = torch.Generator().manual_seed(1)
    old, new = (sum(size[of] for size in sizes.values()) for of in (0, 1))
    given = [torch.randn(1, heads, n, DIM, generator=draw).double() for n in (old, new) for heads in (6, KEYS, KEYS)]

    def seen() -> Tensor:
        cache, slots = Cache(4), [*sizes]
        cache.place(slots, [0] * len(slots), [n for n, _ in sizes.values()], torch.device("cpu"))
        cache.attend(0, *given[:3], SCALE)
        cache.place(slots, [n for n, _ in sizes.values()], [n for _, n in sizes.values()], torch.device("cpu"))
        return cache.attend(0, *given[3:], SCALE)

    return seen


def test_prefill_of_unlike_numbers_of_tokens_after_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their slots share a span, in which the last token of the shorter ones is repeated; one decodes."""
    seen = filled({2: (3, 60), 0: (1, 50), 3: (9, 40), 1: (5, 2)})
    expected = seen()
    used = []
    monkeypatch.setattr(attention, "pays", lambda query: True)
    monkeypatch.setattr(attention, "blockwise", lambda *row: used.append(len(row)) or blockwise.blockwise(*row))
    torch.testing.assert_close(seen(), expected)
    assert len(used) >= 3
    assert expected.abs().amin(dim=(2, 3)).min() > 0


@pytest.mark.parametrize("rank", [None, 4])
def test_what_the_engine_records_is_what_is_recomputed(tiny: Any, rank: int | None) -> None:
    """In bfloat16, of sessions in one prefill, with prompts of unlike lengths of which one begins as another does."""
    draw = torch.Generator().manual_seed(0)
    long = torch.randint(3, 60, (60,), generator=draw).tolist()
    prompts = {(0, 0): long, (0, 1): [*long[:30], *long[40:]], (1, 0): long[:10:-1], (2, 0): long[20:57]}
    model = policy.load_model(str(tiny), "bfloat16", False, rank, 8.0, ["q_proj", "down_proj"])
    whole, engine = Policy(model, critic=False), LocalEngine(model=model, end=1, slots=4)
    for session, prompt in prompts.items():
        engine.submit(Request(session, prompt, 5, 1.0, 1.0, seed=sum(prompt)))
    replies = {reply.session: reply for _ in range(12) for reply in engine.step()}
    for session, prompt in prompts.items():
        row = prompt + replies[session].ids
        scored = whole(MicroBatch.of([row], range(len(prompt), len(row))), 1.0).logprobs
        torch.testing.assert_close(scored.detach(), torch.tensor(replies[session].logprobs), atol=0.05, rtol=0)

"""Frozen layers in bfloat16: laid out once for generation, plain wherever else they are multiplied."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pilotrl.engine.local import LocalEngine
from pilotrl.models import policy
from pilotrl.models.narrow import Frozen, is_frozen, laid_out
from pilotrl.models.policy import weights_sha256
from pilotrl.types import Request

HAS = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
"""Whether oneDNN multiplies bfloat16 on this processor: where it does not, all of this changes nothing."""


def layer(bias: bool, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 40, bias=bias, dtype=dtype).requires_grad_(False)


def rows(count: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(count, 96, generator=torch.Generator().manual_seed(1)).to(dtype)


def true(made: nn.Linear, x: Tensor) -> Tensor:
    return linear(x.double(), made.weight.double(), None if made.bias is None else made.bias.double())


@torch.inference_mode()
def generating(frozen: Frozen, x: Tensor) -> Tensor:
    return frozen(x)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("count", [1, 8, 300])
def test_where_text_is_generated_the_product_is_that_of_the_copy(bias: bool, count: int) -> None:
    """Products of eight bits and a sum in float32, rounded to eight bits once."""
    made, x = layer(bias), rows(count)
    frozen = Frozen(made)
    for shape in ((count, 96), (1, count, 96)):
        y = generating(frozen, x.view(shape))
        assert y.shape == (*shape[:-1], 40)
        torch.testing.assert_close(y.view(count, 40).double(), true(made, x), rtol=2**-8, atol=1e-3)
    assert (frozen.laid_out is not None) == HAS
    if frozen.laid_out is not None:
        frozen.laid_out = laid_out(2 * made.weight)
        twice = true(made, x) + linear(x.double(), made.weight.double())
        torch.testing.assert_close(generating(frozen, x).double(), twice, rtol=2**-8, atol=1e-3)


def test_elsewhere_it_is_torchs_own_with_its_gradient() -> None:
    made, x = layer(True), rows(8).requires_grad_()
    frozen = Frozen(made)
    with torch.no_grad():
        assert torch.equal(frozen(x), linear(x, made.weight, made.bias))
    assert frozen.laid_out is None
    generating(frozen, x)
    y = frozen(x)
    y.float().sum().backward()
    assert torch.equal(y, linear(x, made.weight, made.bias))
    torch.testing.assert_close(x.grad, made.weight.float().sum(0).bfloat16().expand(8, -1), rtol=2**-7, atol=1e-3)


def in_place(weight: Tensor) -> None:
    with torch.no_grad():
        weight.mul_(2)


def elsewhere(weight: Tensor) -> None:
    weight.data = weight.data * 2


def widened(weight: Tensor) -> None:
    weight.data = weight.data.float() * 2


@pytest.mark.parametrize("change", [in_place, elsewhere, widened])
def test_a_weight_that_has_changed_is_laid_out_again(change: Callable[[Tensor], None]) -> None:
    made = layer(False)
    frozen = Frozen(made)
    generating(frozen, rows(8))
    change(made.weight)
    x = rows(8, made.weight.dtype)
    torch.testing.assert_close(generating(frozen, x).double(), true(made, x), rtol=2**-8, atol=1e-3)


def test_in_float32_nothing_is_laid_out() -> None:
    made, x = layer(True, torch.float32), rows(8, torch.float32)
    frozen = Frozen(made)
    assert torch.equal(generating(frozen, x), linear(x, made.weight, made.bias))
    assert frozen.laid_out is None


def test_without_onednn_it_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    made, x = layer(True), rows(8)
    frozen = Frozen(made)
    assert torch.equal(generating(frozen, x), linear(x, made.weight, made.bias))
    assert frozen.laid_out is None


def generated(model: Any) -> tuple[list[int], list[float]]:
    engine = LocalEngine(model=model, end=-1, slots=1)
    engine.submit(Request((0, 0), [5, 9, 2, 7], 12, 1.0, 1.0, seed=3))
    while not (done := engine.step()):
        pass
    return done[0].ids, done[0].logprobs


def copies(model: Any) -> list[Tensor]:
    found = (vars(module).get("forward") for module in model.modules() if is_frozen(module))
    return [frozen.laid_out for frozen in found if isinstance(frozen, Frozen) and frozen.laid_out is not None]


def test_an_engine_lays_out_all_that_is_frozen_and_nothing_that_is_saved_changes(tiny: Path) -> None:
    model = policy.load_model(str(tiny), "bfloat16", False, 4, 8.0, ["q_proj", "down_proj"])
    adapters = [p for p in model.parameters() if p.requires_grad]
    for adapter in adapters:
        nn.init.normal_(adapter, std=0.2)
    names, before = list(model.state_dict()), weights_sha256(model)
    LocalEngine(model=model, end=-1, slots=1).take(0)
    made = copies(model)
    said = generated(model)
    assert all(one is other for one, other in zip(made, copies(model), strict=True))  # as in forks of the process
    assert len(made) == HAS * (2 * 7 + 1)  # two blocks and the head
    assert (list(model.state_dict()), weights_sha256(model)) == (names, before)
    twin = deepcopy(model)
    assert not copies(twin)
    assert generated(twin) == said == generated(model)
    adapters[-1].data = adapters[-1].data * 2  # as a lag exchanges weights; copies of adapters would be stale
    assert generated(model)[1] != said[1]


@pytest.mark.skipif(not HAS, reason="NO BFLOAT16: oneDNN has no products of it on this processor")
def test_a_copy_takes_what_the_weight_takes() -> None:
    """Where its sizes are multiples of what oneDNN pads to, as those of published models are."""
    weight = torch.zeros(192, 576, dtype=torch.bfloat16)
    assert torch.ops.mkldnn._nbytes(laid_out(weight)) == weight.nbytes


def test_nothing_is_computed_of_nothing(tiny: Path) -> None:
    model = policy.load_model(str(tiny), "bfloat16", False, 4, 8.0, ["q_proj"])
    adapted = next(module for module in model.modules() if hasattr(module, "lora_A"))
    assert adapted(torch.empty(1, 0, adapted.in_features, dtype=torch.bfloat16)).shape == (1, 0, adapted.out_features)

"""Each loss by hand, and what its gradient is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Loss
from tests.training.algorithms.records import built, scored

LOSSES = [
    built("loss/clip_by_call"), built("dapo"), built("dr_grpo", length=1), built("gspo"), built("cispo"),
    built("sapo"), built("loss/reinforce"),
]  # fmt: skip


def of_one_token(loss: Algorithm, ratio: float, advantage: float) -> tuple[Loss, float]:
    """The loss of one token, and the slope of its gain in the log-probability, over the advantage."""
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    found = loss.loss(scored(new, torch.zeros(1), torch.tensor([advantage])))
    found.value.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    return found, -new.grad.item() / advantage


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_on_the_weights_that_sampled_it_is_the_policy_gradient(loss: Algorithm, advantage: float) -> None:
    assert of_one_token(loss, 1.0, advantage)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "options", "ratio", "advantage", "slope"),
    [
        ("gspo", {"clip_low": 0.2, "clip_high": 0.3}, 1.25, 1.0, 1.25),
        ("gspo", {"clip_low": 0.2, "clip_high": 0.3}, 1.35, 1.0, 0.0),
        ("gspo", {"clip_low": 0.2, "clip_high": 0.3}, 0.7, -1.0, 0.0),
        ("gspo", {"clip_low": 0.2, "clip_high": 0.3}, 0.7, 1.0, 0.7),
        ("cispo", {"clip_high": 1.0}, 1.5, 1.0, 1.5),
        ("cispo", {"clip_high": 1.0}, 3.0, 1.0, 2.0),  # cut, and not gone
        ("cispo", {"clip_high": 1.0}, 3.0, -1.0, 2.0),
        ("sapo", {}, 1.5, 1.0, 1.5 * 4 * torch.sigmoid(torch.tensor(0.5)) * torch.sigmoid(torch.tensor(-0.5))),
        ("loss/reinforce", {}, 3.0, 1.0, 1.0),  # knows no ratio
    ],
)
def test_slopes_by_hand(name: str, options: dict[str, Any], ratio: float, advantage: float, slope: float) -> None:
    assert of_one_token(built(name, **options), ratio, advantage)[1] == pytest.approx(float(slope), abs=1e-6)


def replies(name: str, **options: Any) -> tuple[Loss, Tensor]:
    """Two replies, of two tokens and of one, with advantages 1 and 2; and the gradient of the loss."""
    logprobs = torch.tensor([-1.0, -2.0, -1.0], requires_grad=True)
    calls = {"token_call": torch.tensor([0, 0, 1]), "call": torch.arange(2), "calls": 2}
    old, advantages = torch.tensor([-1.0, -2.2, -1.5]), torch.tensor([1.0, 1.0, 2.0])
    loss = built(name, **options).loss(scored(logprobs, old, advantages, **calls))
    loss.value.backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    return loss, logprobs.grad


def test_a_reply_has_one_ratio_in_gspo() -> None:
    """A token of the first is far off, its reply is not clipped; exp(0.5) of the second is clipped at 1.2."""
    loss, gradient = replies("gspo", clip_low=0.2, clip_high=0.2)
    assert loss.value.item() == pytest.approx(-(math.exp(0.1) * 1.0 + 1.2 * 2.0) / 2)
    assert float(loss.stats["clip_ratio"]) == pytest.approx(1 / 3)
    assert gradient.tolist() == pytest.approx([-math.exp(0.1) / 4, -math.exp(0.1) / 4, 0.0])


@pytest.mark.parametrize(
    ("name", "weights"),
    [("loss/clip", (1 / 3, 1 / 3, 1 / 3)), ("loss/clip_by_call", (1 / 4, 1 / 4, 1 / 2)), ("dr_grpo", (0.1, 0.1, 0.1))],
)
def test_what_a_token_weighs(name: str, weights: tuple[float, float, float]) -> None:
    """A mean over tokens; over calls, of the means over their tokens; a sum over calls times a constant, here 5."""
    options = {"clip_low": 0.9, "clip_high": 9.0, "dual_clip": None} | ({"length": 5} if name == "dr_grpo" else {})
    loss, gradient = replies(name, **options)
    gains = (1.0, math.exp(0.2), 2 * math.exp(0.5))
    expected = [-weight * gain for weight, gain in zip(weights, gains, strict=True)]
    assert gradient.tolist() == pytest.approx(expected)
    assert loss.value.item() == pytest.approx(sum(expected))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("loss/clip", (1 / 3, 1 / 3, 1 / 3)),
        ("cispo", (1 / 3, 1 / 3, 1 / 3)),
        ("loss/clip_by_call", (1 / 4, 1 / 4, 1 / 2)),
        ("gspo", (1 / 4, 1 / 4, 1 / 2)),
        ("sapo", (1 / 4, 1 / 4, 1 / 2)),
        ("dr_grpo", (0.1, 0.1, 0.1)),
    ],
)
def test_kl_and_entropy_by_hand(name: str, weights: tuple[float, float, float]) -> None:
    """Without advantages only they are left: the KL averaged as the loss is, the entropy over tokens."""
    logprobs = torch.tensor([-1.0, -2.0, -1.0], requires_grad=True)
    entropy = torch.tensor([0.5, 1.0, 1.5], requires_grad=True)
    further, ratio = (0.0, 0.5, -0.5), math.exp(0.2)
    known = {"token_call": torch.tensor([0, 0, 1]), "call": torch.arange(2), "calls": 2, "entropy": entropy}
    known["reference"] = logprobs.detach() + torch.tensor(further)
    options = {"beta": 2.0, "entropy_coef": 0.3} | ({"length": 5} if name == "dr_grpo" else {})
    loss = built(name, **options).loss(scored(logprobs, logprobs.detach() - 0.2, torch.zeros(3), **known))
    loss.value.backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert entropy.grad is not None
    kl = [ratio * (math.exp(x) - x - 1) for x in further]
    expected = 2.0 * sum(weight * x for weight, x in zip(weights, kl, strict=True)) - 0.3 * 1.0
    assert loss.value.item() == pytest.approx(expected)
    assert float(loss.stats["ref_kl"]) == pytest.approx(sum(kl) / 3)
    slopes = [2.0 * weight * ratio * -x for weight, x in zip(weights, further, strict=True)]
    assert logprobs.grad.tolist() == pytest.approx(slopes, abs=1e-7)
    assert entropy.grad.tolist() == pytest.approx([-0.1] * 3)

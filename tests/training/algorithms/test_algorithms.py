"""What every algorithm shares: one training step serves them all, however the batch is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, load
from pilotrl.types import UserError

OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0, "scale_rewards": True, "turn_credit": 1.0},
    "ppo": {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "dual_clip": 3.0,
        "gamma": 0.95,
        "gae_lambda": 0.95,
        "value_coef": 0.5,
        "value_lr": 0.1,
    },
    "sft": {},
}


@pytest.fixture(params=list(OPTIONS))
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return load(request.param, **OPTIONS[request.param])


def part(algorithm: Algorithm, leaves: tuple[Tensor, Tensor], tokens: Tensor, calls: Tensor) -> tuple[Tensor, Any]:
    """Loss of some tokens and calls out of a fixed random batch of 60 and 20."""
    torch.manual_seed(0)
    old, advantages, returns = torch.randn(60), torch.randn(60), torch.randn(20).double()
    returns[3] = torch.nan
    logprobs, values = leaves
    return algorithm.loss(
        logprobs[tokens], old[tokens], advantages[tokens], values[calls], returns[calls], tokens=60, calls=19
    )


def test_parts_add_up_to_the_whole(algorithm: Algorithm) -> None:
    """Loss, gradient and stats do not know how the batch was cut into micro-batches or ranks, nor in which order."""
    torch.manual_seed(1)
    leaves = torch.randn(60, requires_grad=True), torch.randn(20, requires_grad=True)
    whole, stats = part(algorithm, leaves, torch.arange(60), torch.arange(20))
    cuts = zip(torch.randperm(60).split([1, 20, 0, 39]), torch.randperm(20).split([9, 0, 10, 1]), strict=True)
    parts = [part(algorithm, leaves, tokens, calls) for tokens, calls in cuts]
    total = torch.stack([loss for loss, _ in parts]).sum()
    torch.testing.assert_close(total, whole)
    for mine, other in zip(gradients(total, leaves), gradients(whole, leaves), strict=True):
        torch.testing.assert_close(mine, other)
    for name, value in stats.items():
        torch.testing.assert_close(torch.stack([s[name] for _, s in parts]).sum(), value)
        assert value.ndim == 0
        assert not value.requires_grad


def gradients(loss: Tensor, leaves: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True, retain_graph=True)


def test_an_empty_minibatch_is_zero_not_nan(algorithm: Algorithm) -> None:
    nothing = torch.empty(0, requires_grad=True)
    loss, stats = algorithm.loss(nothing, torch.empty(0), torch.empty(0), nothing, torch.empty(0), tokens=0, calls=0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert all(value.item() == 0 for value in stats.values())


def test_no_critic_reads_no_values(algorithm: Algorithm) -> None:
    if not algorithm.critic:
        flags = torch.tensor([False, True])
        rewards, call_episode = torch.tensor([0.1, 0.9], dtype=torch.float64), torch.tensor([0, 0, 1])
        turns, group, followed = torch.full((2, 3), torch.nan), torch.tensor([5, 5]), torch.ones(3, dtype=torch.bool)
        credit = algorithm.advantages(rewards, turns, group, flags, flags, call_episode, followed, torch.empty(0))
        assert credit.advantages.shape == (3,)
        assert credit.advantages.dtype == torch.float64
        assert credit.advantages[0] == credit.advantages[1]
        assert credit.returns.isnan().all()


class Quiz:
    """Sixteen questions, four answers and a move that waits: the third wait is cut and pays more than an error."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.logits = torch.zeros(16, 5, requires_grad=True)
        self.values = torch.zeros(16, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits, self.values], lr=0.1)

    def step(self, algorithm: Algorithm, shuffled: bool) -> None:
        question = torch.arange(16).repeat_interleave(8)
        moves = torch.distributions.Categorical(logits=self.logits.detach()[question]).sample((3,)).T  # [128, 3]
        answered = moves < 4
        played = torch.cat([torch.ones(128, 1, dtype=torch.bool), (~answered).cumprod(1)[:, :-1].bool()], dim=1)
        terminated = answered.any(1)
        success = ((moves == question[:, None] % 4) & played).any(1)
        rewards = torch.where(success, 1.0, torch.where(terminated, 0.3, 0.6)).double()
        rewards = rewards[torch.randperm(128)] if shuffled else rewards
        call_episode, move = played.nonzero()[:, 0], moves[played]
        state = question[call_episode]
        old, guess = self.logits.log_softmax(-1)[state, move].detach(), self.values.detach()[state]
        turns, followed = torch.full((2, len(call_episode)), torch.nan), torch.ones(len(call_episode), dtype=torch.bool)
        credit = algorithm.advantages(rewards, turns, question, success, terminated, call_episode, followed, guess)
        for _ in range(2):
            logprobs, values = self.logits.log_softmax(-1)[state, move], self.values[state]
            count = len(move)
            loss, _ = algorithm.loss(logprobs, old, credit.advantages, values, credit.returns, count, count)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def success(self) -> float:
        """Chance that the first move is the right answer."""
        return self.logits.softmax(-1)[torch.arange(16), torch.arange(16) % 4].mean().item()


@pytest.mark.parametrize("name", ["grpo", "ppo"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_a_trivial_task_and_nothing_from_shuffled_rewards(name: str, seed: int) -> None:
    learner, control = Quiz(seed), Quiz(seed)
    for _ in range(60):
        learner.step(load(name, **OPTIONS[name]), shuffled=False)
        control.step(load(name, **OPTIONS[name]), shuffled=True)
    assert learner.success() > 0.95
    assert control.success() < 0.6


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a2c", {}, ("algorithm.name=a2c", "grpo", "ppo", "sft")),
        ("sft", {"gamma": 0.9}, ("algorithm.gamma=0.9", "sft", "null")),
        ("grpo", {**OPTIONS["grpo"], "clip_low": None}, ("algorithm.clip_low=null", "grpo")),
        ("ppo", {key: value for key, value in OPTIONS["ppo"].items() if key != "gamma"}, ("algorithm.gamma",)),
    ],
)
def test_options_are_read_or_refused(name: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        load(name, **options)
    assert all(word in str(caught.value) for word in words)


def test_null_is_fine_for_what_is_not_read() -> None:
    unread = dict.fromkeys(["gamma", "gae_lambda", "value_coef", "value_lr"])
    assert load("grpo", **OPTIONS["grpo"], **unread) == load("grpo", **OPTIONS["grpo"])
    assert load("grpo", **{**OPTIONS["grpo"], "dual_clip": None}, **unread) != load("grpo", **OPTIONS["grpo"])

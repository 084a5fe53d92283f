"""What every algorithm shares, ours, those of `examples/` and those of `--own FOLDER`: one training step serves them all, however
the batch is cut."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pilotrl.training.algorithms import Algorithm, Loss, Played, grpo, ppo, sft
from pilotrl.types import UserError
from tests.training.algorithms.records import built, names, played, scored


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "algorithm" in metafunc.fixturenames:
        metafunc.parametrize("algorithm", names(), indirect=True)


@pytest.fixture
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return built(request.param)


LENGTHS = torch.tensor([1, 5, 3, 2, 9, 4, 1, 7, 3, 5, 2, 2, 1, 4, 1, 3, 2, 1, 3, 1])
"""Tokens of twenty calls, sixty in all."""
TOKEN_CALL = torch.arange(20).repeat_interleave(LENGTHS)
EPISODE = torch.arange(5).repeat_interleave(4)
Leaves = tuple[Tensor, Tensor]


def part(algorithm: Algorithm, leaves: Leaves, calls: Tensor) -> Loss:
    """Loss of some calls out of a fixed random minibatch."""
    torch.manual_seed(0)
    old, advantages, returns = torch.randn(60), torch.randn(20), torch.randn(20).double()
    returns[3] = torch.nan
    told = played(torch.rand(5).double(), torch.tensor([0, 0, 1, 1, 1]), EPISODE)
    logprobs, values = leaves
    tokens = torch.isin(TOKEN_CALL, calls)
    shown = scored(
        logprobs[tokens],
        old[tokens],
        advantages[TOKEN_CALL[tokens]],
        token_call=torch.searchsorted(calls, TOKEN_CALL[tokens]),
        call=calls,
        values=values[calls] if algorithm.critic else torch.empty(0),
        returns=returns[calls] if algorithm.critic else torch.full((len(calls),), torch.nan),
        played=told,
        tokens=60,
        calls=20,
        targets=19,
    )
    return algorithm.loss(shown)


def test_parts_add_up_to_the_whole(algorithm: Algorithm) -> None:
    """Loss, gradient and stats do not know how the batch was cut into micro-batches or ranks. A call is never cut."""
    torch.manual_seed(1)
    leaves = torch.randn(60, requires_grad=True), torch.randn(20, requires_grad=True)
    whole = part(algorithm, leaves, torch.arange(20))
    parts = [part(algorithm, leaves, calls.sort()[0]) for calls in torch.randperm(20).split([9, 0, 10, 1])]
    total = torch.stack([one.value for one in parts]).sum()
    torch.testing.assert_close(total, whole.value)
    for mine, other in zip(gradients(total, leaves), gradients(whole.value, leaves), strict=True):
        torch.testing.assert_close(mine, other)
    for name, value in whole.stats.items():
        torch.testing.assert_close(sum(float(one.stats[name]) for one in parts), float(value))
        assert not isinstance(value, Tensor) or (value.ndim == 0 and not value.requires_grad)


def gradients(loss: Tensor, leaves: Leaves) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True, retain_graph=True)


def test_an_empty_minibatch_is_zero_not_nan(algorithm: Algorithm) -> None:
    nothing = torch.empty(0, requires_grad=True)
    values = torch.empty(0, requires_grad=True)
    loss = algorithm.loss(scored(nothing, torch.empty(0), torch.empty(0), values=values, tokens=0, calls=0, targets=0))
    loss.value.backward()  # type: ignore[no-untyped-call]
    assert loss.value.item() == 0
    assert all(float(value) == 0 for value in loss.stats.values())


def test_advantages_are_finite_one_a_call_and_nothing_where_the_reward_is_missing(algorithm: Algorithm) -> None:
    """Of groups with spread, without, of one episode, and with a missing reward."""
    rewards = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.7, torch.nan, 0.4], dtype=torch.float64)
    episode = torch.tensor([0, 0, 1, 2, 2, 3, 4, 5, 5, 6])
    values = torch.zeros(10) if algorithm.critic else torch.empty(0)
    told = played(rewards, torch.tensor([3, 3, 1, 1, 2, 0, 0]), episode, values=values)
    credit = algorithm.advantages(told)
    assert credit.advantages.shape == (10,)
    assert credit.advantages.dtype == torch.float64
    assert credit.advantages.isfinite().all()
    assert credit.advantages.abs().max() < 100
    assert all(isinstance(value, float) for value in credit.stats.values())
    assert (credit.returns is None) == (not algorithm.critic)
    if not algorithm.demonstrations:
        assert (credit.advantages[[7, 8]] == 0).all()


def a_step(algorithm: Algorithm) -> Played:
    """Twelve episodes of four groups, with calls of both roles that saw few things and had few plans."""
    torch.manual_seed(2)
    episode = torch.arange(12).repeat_interleave(torch.randint(1, 6, (12,)))
    calls = len(episode)
    rewards = torch.rand(12).double().masked_fill(torch.arange(12) % 5 == 4, torch.nan)
    drawn = {"observation": torch.randint(0, 3, (calls,)), "plan": torch.randint(0, 2, (calls,))}
    drawn["role"] = torch.randint(0, 2, (calls,))
    ends = {"terminated": torch.rand(12) < 0.7, "success": torch.rand(12) < 0.5}
    earned = torch.rand(2, calls).double()
    values = torch.rand(calls) if algorithm.critic else torch.empty(0)
    group = torch.arange(4).repeat(3)
    return played(rewards, group, episode, process_rewards=earned, values=values, **drawn, **ends)


def picked(told: Played, episodes: Tensor) -> tuple[Played, Tensor]:
    """Some of the episodes, in an order; and which calls they are."""
    calls = torch.cat([(told.episode == episode).nonzero()[:, 0] for episode in episodes])
    whole = {name: getattr(told, name)[episodes] for name in ("rewards", "group", "success", "terminated")}
    of_calls = ("turn", "role", "observation", "plan", "followed", "step_rewards", "values")
    mine = {name: values[calls] if len(values := getattr(told, name)) else values for name in of_calls}
    numbered = (told.episode[calls][:, None] == episodes).nonzero()[:, 1]
    return replace(told, **whole, **mine, process_rewards=told.process_rewards[:, calls], episode=numbered), calls


def test_the_order_of_episodes_does_not_matter(algorithm: Algorithm) -> None:
    """Nor which numbers stand for a group, an observation or a plan."""
    told = a_step(algorithm)
    there = algorithm.advantages(told)
    shown, calls = picked(told, torch.randperm(12))
    shown = replace(shown, group=7 - shown.group, observation=9 - shown.observation, plan=5 + shown.plan)
    here = algorithm.advantages(shown)
    torch.testing.assert_close(here.advantages, there.advantages[calls], rtol=1e-9, atol=1e-12)
    if here.returns is not None and there.returns is not None:
        torch.testing.assert_close(here.returns, there.returns[calls], rtol=1e-9, atol=1e-12, equal_nan=True)
    assert here.stats == pytest.approx(dict(there.stats))


@pytest.mark.parametrize(("name", "pair"), [("grpo", grpo.Grpo), ("ppo", ppo.Ppo), ("sft", sft.Sft)])
def test_pairs_to_derive_from_are_those_of_the_files(name: str, pair: Any) -> None:
    """So a run that was begun when these were what the files named goes on as it was."""
    chosen = built(name)
    whole = pair(**asdict(chosen))  # type: ignore[call-overload]
    told = a_step(chosen)
    assert torch.equal(whole.advantages(told).advantages, chosen.advantages(told).advantages)
    torch.manual_seed(1)
    leaves = torch.randn(60, requires_grad=True), torch.randn(20, requires_grad=True)
    ours, theirs = (part(algorithm, leaves, torch.arange(20)) for algorithm in (whole, chosen))
    assert torch.equal(ours.value, theirs.value)
    assert ours.stats == theirs.stats
    assert (whole.critic, whole.demonstrations, whole.smallest_group) == (
        chosen.critic,
        chosen.demonstrations,
        chosen.smallest_group,
    )


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("size", [1, 2, 64])
def test_advantages_of_thousands_are_impossible(algorithm: Algorithm, spread: float, size: int) -> None:
    """However little the episodes of a group differ, and where one alone of many does; without spread they are exactly 0."""
    rewards = torch.full((2 * size,), 0.1 + 0.2, dtype=torch.float64)
    rewards[0] += spread
    rewards[size:] = torch.nan
    episode = torch.arange(2 * size).repeat_interleave(3)
    earned = torch.where(torch.arange(6 * size) == 4, 0.5 + spread / 2, 0.5).expand(2, -1)
    values = torch.full((6 * size,), 0.3) if algorithm.critic else torch.empty(0)
    group = torch.arange(2).repeat_interleave(size)
    seen = torch.arange(6 * size) % 3
    told = played(rewards, group, episode, process_rewards=earned, values=values, observation=seen)
    found = algorithm.advantages(told).advantages
    assert found.abs().max() <= 1 + 2 * size  # a mean in the denominator allows that, a deviation its root
    alike = spread < 1e-8 or (size == 1 and not algorithm.credits_candidates)
    if alike and not (algorithm.critic or algorithm.demonstrations):
        assert not found.any()


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
        there = torch.cat([torch.ones(128, 1, dtype=torch.bool), (~answered).cumprod(1)[:, :-1].bool()], dim=1)
        terminated = answered.any(1)
        success = ((moves == question[:, None] % 4) & there).any(1)
        rewards = torch.where(success, 1.0, torch.where(terminated, 0.3, 0.6)).double()
        rewards = rewards[torch.randperm(128)] if shuffled else rewards
        call_episode, move = there.nonzero()[:, 0], moves[there]
        state = question[call_episode]
        old, guess = self.logits.log_softmax(-1)[state, move].detach(), self.values.detach()[state]
        ends = {"success": success, "terminated": terminated, "values": guess if algorithm.critic else torch.empty(0)}
        told = played(rewards, question, call_episode, observation=state, **ends)
        credit = algorithm.advantages(told)
        returns = torch.full((len(move),), torch.nan) if credit.returns is None else credit.returns
        for _ in range(2):
            logprobs, values = self.logits.log_softmax(-1)[state, move], self.values[state]
            shown = scored(logprobs, old, credit.advantages, values=values, returns=returns, played=told)
            self.optimizer.zero_grad()
            algorithm.loss(shown).value.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def success(self) -> float:
        """Chance that the first move is the right answer."""
        return self.logits.softmax(-1)[torch.arange(16), torch.arange(16) % 4].mean().item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_a_trivial_task_and_nothing_from_shuffled_rewards(algorithm: Algorithm, seed: int) -> None:
    if algorithm.demonstrations:
        return
    learner, control = Quiz(seed), Quiz(seed)
    for _ in range(120):  # half of the updates are clipped away where bounds are narrow
        learner.step(algorithm, shuffled=False)
        control.step(algorithm, shuffled=True)
    assert learner.success() > 0.95
    assert control.success() < 0.6


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("grpo", {"clip_low": 2.0}, "clip_low=2.0: must be from 0 to 1"),
        ("grpo", {"turn_credit": -1.0}, "turn_credit=-1.0: must be from 0 to 1000"),
        ("ppo", {"gamma": 1.5}, "gamma=1.5: must be from 0 to 1"),
        ("ppo", {"clip_low": 1.5}, "clip_low=1.5: must be from 0 to 1"),
        ("gspo", {"clip_high": -1.0}, "clip_high=-1.0: must be at least 0"),
        ("gigpo", {"shrinkage": -1.0}, "shrinkage=-1.0: must be from 0 to 1000"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        built(name, **options)

"""One training step does what the formulas say, and nothing that memory or the number of pieces could change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pilotrl.training import ranks
from pilotrl.training.algorithms import Credit, Loss, Played, Scored
from pilotrl.training.algorithms.grpo import Grpo
from pilotrl.training.batch import ROLES, Batch
from pilotrl.types import Call

Make = Callable[..., Any]


def first_batch(run: Any) -> Batch:
    """The batch that `run.fit` will play first."""
    batch: Batch = run.source.batch(0)
    return batch


def verdict(i: int, t: int) -> int | None:
    """Of the judge on turn t of episode i: some of them missing, in one group all the same."""
    return 1 if i in (6, 7, 8) else (2, 0, None, 1, 2)[(i + 2 * t) % 5]


def rewarded(
    run: Any,
    reward: Callable[[int], float | None],
    outcome: str | None = None,
    graded: Callable[[int, int], int | None] = verdict,
) -> Any:
    """Gives the i-th episode a reward of our own, all of them an outcome, and their turns verdicts."""
    played = run.source.scoring

    def score(episodes: Any) -> None:
        played(episodes)
        for i, episode in enumerate(episodes):
            episode.reward = reward(i)
            episode.outcome = outcome or episode.outcome
            for t, call in enumerate(call for call in episode.calls if call.role == "executor"):
                process_reward = graded(i, t)
                call.process_reward = None if process_reward is None else process_reward / 2

    run.graded(score)
    return run


def logprobs_of(model: Any, call: Call, temperature: float) -> Tensor:
    """[reply] of a call alone, by a plain forward pass."""
    ids = torch.tensor([call.prompt + call.ids])
    logits = model(ids, use_cache=False).logits[0, len(call.prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(call.ids)[:, None])[:, 0]


def plain_model(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="sdpa").eval()


def adam(model: Any, loss: Tensor, lr: float, clip: float) -> tuple[float, Tensor]:
    """The gradient's norm, and the weights after one update."""
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01).step()
    return float(norm), torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def by_hand(model: Any, trained: list[tuple[Call, float]], temperature: float) -> tuple[Tensor, float]:
    """Policy loss of calls with their advantages, and the mean entropy. Where the ratio is 1, nothing is clipped."""
    loss, entropy = torch.zeros(()), 0.0
    for call, advantage in trained:
        now, old = logprobs_of(model, call, temperature), torch.tensor(call.logprobs)
        loss = loss - ((now - old).exp() * advantage).sum()
        ids = torch.tensor([call.prompt + call.ids])
        logits = model(ids).logits[0, len(call.prompt) - 1 : -1].detach() / temperature
        entropy += float(torch.distributions.Categorical(logits=logits).entropy().sum())
    tokens = sum(len(call.ids) for call, _ in trained)
    return loss / tokens, entropy / tokens


def check_step(run: Any, loss: Tensor, entropy: float, norm: float, weights: Tensor) -> None:
    assert run.module.metrics["train/loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert run.module.metrics["train/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm > 0.05  # and it was clipped
    assert run.module.metrics["train/entropy"] == pytest.approx(entropy, rel=1e-5)
    assert run.module.metrics["train/lr"] == 1e-2
    learned = torch.cat([parameter.detach().flatten() for parameter in run.policy.model.parameters()])
    torch.testing.assert_close(learned, weights, atol=2e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_step_of_grpo_is_the_one_computed_by_hand(training: Make, tiny: Path, temperature: float) -> None:
    given = [0.1, 0.9, 0.4, 0.7, 0.7, 0.7, 0.0, None, 1.0, 0.2, 0.3, 0.5]

    def make() -> Any:
        return rewarded(training(steps=1, temperature=temperature, grad_clip=0.05), lambda i: given[i])

    trained: list[tuple[Call, float]] = []
    batch, model = first_batch(make()), plain_model(tiny)
    for group in range(4):
        kept = [e for e in batch.episodes if e.group == group and e.reward is not None]
        rewards = [e.reward or 0.0 for e in kept]
        verdicts = [[call.process_reward for call in e.calls if call.process_reward is not None] for e in kept]
        mean = fmean(fmean(mine) for mine in verdicts)  # each episode weighs the same
        for episode, reward in zip(kept, rewards, strict=True):
            advantage = reward - fmean(rewards)
            for call in episode.calls:
                trained.append((call, advantage + (0.0 if call.process_reward is None else call.process_reward - mean)))
    loss, entropy = by_hand(model, trained, temperature)
    norm, weights = adam(model, loss, lr=1e-2, clip=0.05)
    run = make().fit()
    check_step(run, loss, entropy, norm, weights)
    assert run.module.metrics["train/frac_reward_zero_std"] == 0.25
    assert (run.weights() - training().weights()).abs().max() > 5e-3


def test_a_step_of_ppo_is_the_one_computed_by_hand(training: Make, tiny: Path) -> None:
    given = [0.1, 0.9, 0.4, 0.7, 0.7, 0.7, 0.0, None, 1.0, 0.2, 0.3, 0.5]

    def make() -> Any:
        return rewarded(training("ppo", steps=1, grad_clip=0.05), lambda i: given[i], "failed")

    trained: list[tuple[Call, float]] = []
    batch, model = first_batch(make()), plain_model(tiny)
    for episode, reward in zip(batch.episodes, given, strict=True):
        if reward is not None:  # all values are 0 at first, so only the end is worth something
            after = range(len(episode.calls) - 1, -1, -1)
            trained += [(call, reward * (0.97 * 0.95) ** k) for call, k in zip(episode.calls, after, strict=True)]
    policy_loss, entropy = by_hand(model, trained, 1.0)
    head = torch.nn.Linear(32, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    states = [model.model(torch.tensor([call.prompt])).last_hidden_state[0, -1].detach() for call, _ in trained]
    returns = torch.tensor([advantage for _, advantage in trained])
    value_loss = (head(torch.stack(states))[:, 0] - returns).square().mean()
    loss = policy_loss + 0.5 * value_loss
    whole = torch.nn.ModuleList([model, head])
    norm, weights = adam(whole, loss, lr=1e-2, clip=0.05)
    run = make().fit()
    count = head.weight.numel() + 1
    check_step(run, loss, entropy, norm, weights[:-count])
    assert run.module.metrics["train/value_loss"] == pytest.approx(value_loss.item(), rel=1e-5)
    torch.testing.assert_close(run.weights()[-count:], weights[-count:], atol=2e-4, rtol=0)


def test_values_learn_what_ended_episodes_were_worth(training: Make) -> None:
    """Demonstrations end solved, so that the last call's return is the reward."""
    run = rewarded(training("ppo", steps=12, lr=1e-9, value_lr=3e-2, agent_spec={"demonstrates": True}), lambda i: 0.8)
    losses: list[float] = []
    step = run.module.training_step

    def training_step(batch: Batch, batch_idx: int) -> None:
        step(batch, batch_idx)
        losses.append(run.module.metrics["train/value_loss"])

    run.module.training_step = training_step
    run.fit()
    assert losses[0] == pytest.approx(fmean([(0.8 * (0.97 * 0.95) ** k) ** 2 for k in (0, 1, 2)]), rel=0.25)
    assert losses[-1] < losses[0] / 5


def test_a_step_of_sft_lowers_the_loss_on_what_it_saw(training: Make) -> None:
    run = training("sft", steps=8, agent_spec={"demonstrates": True}, group_size=1)
    before = run.module.held_out_loss(run.source.batch(0))
    assert before == pytest.approx(torch.tensor(342.0).log().item(), abs=1.0)
    run.fit()
    assert run.module.held_out_loss(run.source.batch(0)) < before - 0.5


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_the_first_ratio_is_one(training: Make, algorithm: str) -> None:
    metrics = training(algorithm, steps=1).fit().module.metrics
    assert metrics["train/clip_ratio"] == 0.0
    assert 0 <= metrics["train/kl"] < 1e-9


def test_later_minibatches_are_off_policy_and_counted(training: Make) -> None:
    metrics = training(steps=1, minibatches=4, lr=5e-2).fit().module.metrics
    assert metrics["train/kl"] > 1e-4
    assert metrics["train/clip_ratio"] > 0.0


def test_what_no_rank_learns_about_the_optimizer_leaves_alone(training: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros in place of no gradient would move it, by momentum and weight decay, as one rank does not."""
    module = training().module
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    first, *others = [p for p in module.parameters() if p.requires_grad]
    first.grad = torch.ones_like(first)
    module.sum_gradients()
    assert first.grad is not None
    assert torch.equal(first.grad, torch.ones_like(first))
    assert [p.grad for p in others] == [None] * len(others)


def test_a_kl_term_draws_adapters_back_to_the_weights_under_them(training: Make, tiny: Path) -> None:
    """Where rewards say nothing, at the first update it is beta times the k3 of what was sampled, and then it falls."""
    run, seen = training(options={"beta": 0.5}, roles="separate", steps=3, weight_decay=0.0), list[float]()
    torch.manual_seed(3)
    for parameter in run.module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter) * parameter.requires_grad
    rewarded(run, lambda i: 0.5, graded=lambda i, t: None)
    model = plain_model(tiny)
    calls = [call for episode in first_batch(run).episodes for call in episode.calls]
    further = torch.cat([logprobs_of(model, call, 1.0).detach() - torch.tensor(call.logprobs) for call in calls])
    learned, step = [p for p in run.module.parameters() if p.requires_grad], run.module.training_step

    def training_step(batch: Batch, batch_idx: int) -> None:
        step(batch, batch_idx)
        seen.append(run.module.metrics["train/ref_kl"])
        assert run.module.metrics["train/loss"] == pytest.approx(0.5 * seen[-1], rel=1e-5)

    run.module.training_step = training_step
    run.fit()
    assert seen[0] == pytest.approx(float((further.expm1() - further).mean()), rel=1e-3)
    assert seen[0] > 1.2 * seen[-1] > 0
    assert [p for p in run.module.parameters() if p.requires_grad] == learned


def test_an_entropy_bonus_raises_entropy(training: Make) -> None:
    """Where rewards say nothing."""
    runs = [training(options={"entropy_coef": coef}, steps=3, weight_decay=0.0, lr=3e-3) for coef in (0.1, 0.0)]
    with_bonus, without = (rewarded(run, lambda i: 0.5, graded=lambda i, t: None).fit() for run in runs)
    assert with_bonus.module.metrics["train/loss"] == pytest.approx(-0.1 * with_bonus.module.metrics["train/entropy"])
    assert with_bonus.module.metrics["train/grad_norm"] > 0
    assert without.module.metrics["train/grad_norm"] == 0


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "sft"])
def test_memory_changes_nothing(training: Make, algorithm: str) -> None:
    runs = [training(algorithm, steps=1, minibatches=2, micro_tokens=tokens).fit() for tokens in (1, 10**6)]
    for name, value in runs[0].module.metrics.items():
        assert runs[1].module.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    # Adam divides by the gradient's size, so what is nearly zero may still move by the learning rate
    assert (runs[0].weights() - runs[1].weights()).abs().mean() < 1e-5


def test_a_batch_of_other_weights_is_refused(training: Make) -> None:
    run = training(steps=2)
    batch = run.source.batch(0)
    batch.version = 1
    run.source.batch = lambda step: batch
    with pytest.raises(RuntimeError, match="played by weights of version 1, these are version 0"):
        run.fit()


def test_a_batch_with_nothing_to_learn_from_changes_nothing(training: Make) -> None:
    run = rewarded(training(steps=2), lambda i: None)
    before = run.weights()
    run.fit()
    assert torch.equal(run.weights(), before)  # not even weight decay
    assert int(run.module.version) == 2
    assert run.module.metrics["train/grad_norm"] == 0.0


def test_equal_rewards_teach_nothing(training: Make) -> None:
    run = rewarded(training(steps=1), lambda i: 0.3, graded=lambda i, t: 1)
    before = run.weights()
    run.fit()
    assert torch.equal(run.weights(), before)
    assert run.module.metrics["train/frac_reward_zero_std"] == 1.0


def test_a_dead_group_counts_among_the_tokens_and_is_not_run(training: Make, tiny: Path) -> None:
    given = [0.1, 0.9, 0.4, 0.7, 0.7, 0.7, 0.0, 0.2, 1.0, 0.2, 0.3, 0.6]

    def make() -> Any:
        return rewarded(training(steps=1), lambda i: given[i], graded=lambda i, t: 1)

    batch, model = first_batch(make()), plain_model(tiny)
    means = [fmean(given[i : i + 3]) for i in range(0, 12, 3)]
    credited = [(call, given[i] - means[e.group], e.group) for i, e in enumerate(batch.episodes) for call in e.calls]
    living = [(call, advantage) for call, advantage, group in credited if group != 1]
    loss, entropy = by_hand(model, living, 1.0)
    tokens, seen = sum(len(call.ids) for call, _ in living), []
    run = make()
    forward = run.policy.forward
    run.policy.forward = lambda micro_batch, *more: (
        seen.append(len(micro_batch.token_call)) or forward(micro_batch, *more)
    )
    run.fit()
    assert sum(seen) == tokens < len(batch.token_call)
    assert run.module.metrics["train/loss"] == pytest.approx(loss.item() * tokens / len(batch.token_call), abs=1e-6)
    assert run.module.metrics["train/entropy"] == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1.0, 1.0, 1.0, 1.0]),
        ("constant", 3, [0.25, 0.5, 0.75, 1.0]),
        ("linear", 0, [1.0, 0.75, 0.5, 0.25]),
        ("cosine", 0, [1.0, 0.8535534, 0.5, 0.1464466]),
        ("linear", 1, [0.5, 0.75, 0.5, 0.25]),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    training: Make, schedule: str, warmup: int, expected: list[float]
) -> None:
    run = training("ppo", steps=4, lr_schedule=schedule, lr_warmup=warmup, value_lr=1e-3, tasks=1)
    seen: list[list[float]] = []
    update = run.module.update

    def watched(step: int) -> float:
        norm: float = update(step)
        optimizers = run.trainer.optimizers
        seen.append([group["lr"] for group in chain(*(o.param_groups for o in optimizers))])
        assert run.module.lr_factor(step) == pytest.approx(expected[step])
        return norm

    run.module.update = watched
    run.fit()
    assert seen == [pytest.approx([1e-2 * lr_factor, 1e-3 * lr_factor]) for lr_factor in expected]
    assert run.module.metrics["train/lr"] == pytest.approx(1e-2 * expected[-1])


def test_muon_learns_matrices_inside_the_blocks_and_adam_the_rest(training: Make) -> None:
    run = training("sft", steps=3, muon_lr=1e-2, agent_spec={"demonstrates": True})
    before = {name: p.detach().clone() for name, p in run.policy.named_parameters()}
    run.fit()
    adam, muon = run.trainer.optimizers
    held = [{id(p) for group in o.param_groups for p in group["params"]} for o in (adam, muon)]
    for name, parameter in run.policy.named_parameters():
        assert (id(parameter) in held[1]) == ("layers." in name and parameter.ndim == 2), name
        assert (id(parameter) in held[0]) != (id(parameter) in held[1])
        assert not torch.equal(parameter, before[name])


def test_an_algorithm_is_shown_which_call_each_token_is_of(training: Make) -> None:
    """Tokens of a micro-batch point to its calls, and those to the calls of the step: with whole calls, in every minibatch."""
    run, seen = training("grpo", steps=1, minibatches=2, micro_tokens=300, trains=ROLES), []

    @dataclass(frozen=True)
    class Watched(Grpo):
        def advantages(self, played: Played) -> Credit:
            return Credit(torch.arange(1.0, len(played.episode) + 1).double())

        def loss(self, scored: Scored) -> Loss:
            seen.append(scored)
            return super().loss(scored)

    run.module.algorithm = Watched(**asdict(run.module.algorithm))  # type: ignore[call-overload]
    run.fit()
    assert len(seen) > 2
    for scored in seen:
        assert torch.equal(scored.advantages, scored.call[scored.token_call] + 1.0)
        assert scored.token_call.unique().tolist() == list(range(len(scored.call)))
    calls = torch.cat([scored.call for scored in seen])
    assert calls.sort()[0].tolist() == list(range(len(seen[0].played.episode)))
    assert {scored.calls for scored in seen} == {len(calls) / 2}  # of a minibatch, whatever its micro-batches hold

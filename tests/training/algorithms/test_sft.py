"""Cross entropy against transformers' own, and its edges."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pilotrl.training.algorithms import sft
from pilotrl.training.algorithms.sft import Sft
from tests.training.algorithms.records import played


def test_loss_equals_that_of_transformers() -> None:
    torch.manual_seed(0)
    size = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**size, num_attention_heads=2, num_key_value_heads=2))
    ids = torch.randint(0, 30, (3, 9))
    trained = torch.rand(3, 9) < 0.5
    trained[:, 0] = False
    theirs = model(input_ids=ids, labels=ids.masked_fill(~trained, -100)).loss
    logprobs = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    ours, stats = sft.loss(logprobs[trained[:, 1:]], torch.ones(int(trained.sum())), float(trained.sum()))
    torch.testing.assert_close(ours, theirs)
    assert stats == {}


def test_every_call_counts_whatever_its_reward() -> None:
    rewards = torch.tensor([float("nan"), 0.0], dtype=torch.float64)
    credit = Sft().advantages(played(rewards, torch.zeros(2, dtype=torch.long), torch.tensor([0, 1, 1])))
    assert credit.advantages.tolist() == [1.0, 1.0, 1.0]


def test_no_tokens_no_loss() -> None:
    loss, _ = sft.loss(torch.empty(0, requires_grad=True), torch.empty(0), 0)
    assert loss.item() == 0.0

"""What algorithms are shown, with everything that a test does not care about filled in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pilotrl.training.algorithms import Played, Scored


def played(rewards: Tensor, group: Tensor, episode: Tensor, **given: Any) -> Played:
    """Episodes that ended by themselves, with an executor's call a turn, each at an observation of its own."""
    calls, ends = len(episode), torch.ones(len(rewards), dtype=torch.bool)
    first = torch.searchsorted(episode, episode)  # of its episode
    usual = {
        "success": ~ends,
        "terminated": ends,
        "turn": torch.arange(calls) - first + 1,
        "role": torch.ones(calls, dtype=torch.long),
        "observation": torch.arange(calls),
        "plan": torch.zeros(calls, dtype=torch.long),
        "followed": torch.ones(calls, dtype=torch.bool),
        "process_rewards": torch.full((2, calls), torch.nan, dtype=torch.float64),
        "step_rewards": torch.zeros(calls, dtype=torch.float64),
        "values": torch.empty(0),
    }
    return Played(rewards=rewards, group=group, episode=episode, **usual | given)


def scored(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, **given: Any) -> Scored:
    """A micro-batch of calls of one token each, which is the whole minibatch."""
    calls = torch.arange(len(logprobs))
    usual: dict[str, Any] = {
        "entropy": torch.zeros(len(logprobs)),
        "token_call": calls,
        "call": calls,
        "values": torch.empty(0),
        "returns": torch.full((len(logprobs),), torch.nan),
        "played": played(torch.zeros(1).double(), torch.zeros(1).long(), torch.zeros(len(logprobs)).long()),
        "tokens": len(logprobs),
        "calls": len(logprobs),
        "targets": len(logprobs),
    }
    return Scored(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, **usual | given)

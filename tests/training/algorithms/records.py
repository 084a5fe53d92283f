"""What algorithms are shown, with everything that a test does not care about filled in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pilotrl.config import search_path
from pilotrl.training.algorithms import Algorithm, Played, Scored, build


def names() -> list[str]:
    """Every algorithm there is, those of `--own FOLDER` too; and halves that none of them has, as credit/NAME or loss/NAME."""
    whole, halves = search_path.options("algorithm"), ("credit", "loss")
    taken = {(kind, search_path.settings("algorithm", name).get(kind)) for name in whole for kind in halves}
    alone = [(kind, name) for kind in halves for name in search_path.options(f"algorithm/{kind}")]
    held = [(kind, name, search_path.settings(f"algorithm/{kind}", name)[kind]) for kind, name in alone]
    return [*whole, *(f"{kind}/{name}" for kind, name, target in held if (kind, target) not in taken)]


def built(name: str, **options: Any) -> Algorithm:
    """One of `names()`, as `conf/` has it but for the options; a half beside a usual other half."""
    kind, _, half = name.rpartition("/")
    if not kind:
        return build({**search_path.settings("algorithm", name), **options})
    parts = {"credit": "group", "loss": "clip", kind: half}
    credit, loss = (search_path.settings(f"algorithm/{kind}", parts[kind]) for kind in ("credit", "loss"))
    return build({**credit, **loss, **options, "_target_": "pilotrl.training.algorithms.pair.Pair"})


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
        "reference": logprobs.detach(),
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

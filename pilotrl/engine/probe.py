"""Whether an engine plays with the weights that learn: it continues a few prompts, and the trainer says how likely it finds that.

A sum over the weights would not tell: engines keep them packed, and play from keys and values that older weights left behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pilotrl.engine import Engine
from pilotrl.models.kl import k3
from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.policy import Policy
from pilotrl.types import Request

PROMPTS, PROMPT, REPLY = 8, 160, 16
"""Prompts, their tokens (more than a block of a cache that keeps prefixes), and tokens of a continuation, at most."""
MOST = 0.05
"""Nats a token, at most. Rounding to bfloat16 makes 0.002; weights that did not arrive 0.15 to 15."""


def measured(engine: Engine, policy: Policy, adapters: Sequence[str | None], max_length: int) -> float:
    """KL a token from the engine to the trainer, in nats, estimated as k3 on what the engine samples after prompts of random
    tokens, which are the same each time. Nothing else may be asked meanwhile."""
    said = min(REPLY, max_length // 2)
    size = PROMPTS, min(PROMPT, max_length - said)
    drawn = torch.randint(policy.model.config.vocab_size, size, generator=torch.Generator().manual_seed(0))
    prompts, moved = drawn.tolist(), list[Tensor]()
    for group, adapter in enumerate(adapters):
        for sample, prompt in enumerate(prompts):
            engine.submit(Request((group, sample), prompt, said, 1.0, 1.0, seed=sample, adapter=adapter))
    while len(moved) < len(adapters) * len(prompts):
        for reply in engine.step():
            group, sample = reply.session
            found = likelihood(policy, adapters[group], prompts[sample], reply.ids)
            moved.append(found - torch.tensor(reply.logprobs, dtype=torch.float64))
    drift = torch.cat(moved)
    return float(k3(drift).mean())


@torch.no_grad()
def likelihood(policy: Policy, adapter: str | None, prompt: list[int], ids: list[int]) -> Tensor:
    """[tokens] float64 log-probabilities of a reply at temperature 1, by the policy."""
    micro_batch = MicroBatch.of([prompt + ids], range(len(prompt), len(prompt) + len(ids)), adapter)
    found: Tensor = policy(micro_batch.to(next(policy.parameters()).device), 1.0).logprobs.double().cpu()
    return found

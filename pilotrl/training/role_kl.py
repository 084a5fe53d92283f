"""How far training has moved what each role says, also where the role is not trained: weights are shared.

A probe is played before training, by the policy's own plans, and kept. Then KL(initial || current) is estimated on the
tokens that the initial weights sampled, as k3 (joschu.net/blog/kl-approx.html): never negative, unbiased, and exactly 0
where nothing has moved, since both sides come from the same forward passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from pilotrl.models.kl import k3
from pilotrl.models.policy import Policy
from pilotrl.store.reading import unreadable
from pilotrl.training import batch_file, ranks
from pilotrl.training.batch import Batch, collate
from pilotrl.types import Episode, Role

NOTHING = torch.empty(0)
"""Of episodes in which nobody said anything: all broken, or full from the start."""


@dataclass(frozen=True)
class Probe:
    """What the initial weights said."""

    batch: Batch
    temperature: float
    micro_tokens: int
    initial: Tensor
    """[N] log-probabilities of all sampled tokens, in the order of `logprobs`."""

    @classmethod
    def of(cls, episodes: Sequence[Episode], policy: Policy, temperature: float, micro_tokens: int) -> Probe:
        """Of episodes that these very weights played."""
        for episode in episodes:
            episode.reward = 0.0  # what has none makes no rows
        batch = collate(episodes, get_args(Role), step=0, version=0, groups=len(episodes))
        return cls(batch, temperature, micro_tokens, logprobs(policy, batch, temperature, micro_tokens))

    def save(self, path: Path) -> None:
        """A run that goes on later no longer has the initial weights."""
        batch_file.write(self.batch, path, initial=self.initial)

    @classmethod
    def load(cls, path: Path, policy: Policy, temperature: float, micro_tokens: int) -> Probe:
        """What `save` wrote, with the settings that it was made with. Raises UserError for a file that it did not write."""
        remedy = "put a whole copy of it back, or delete checkpoints/ beside it and the run begins anew"
        batch, more = batch_file.read(path, remedy, ["initial"])
        words = min(layer.num_embeddings for layer in policy.modules() if isinstance(layer, nn.Embedding))
        if any(int(row.max()) >= words for row in batch.rows):
            raise unreadable(path, f"holds tokens that a model of {words} does not know", remedy)
        return cls(batch, temperature, micro_tokens, more["initial"])

    def drift(self, policy: Policy) -> dict[str, float]:
        """Nats a token, by role; without a role that said nothing."""
        moved = logprobs(policy, self.batch, self.temperature, self.micro_tokens).double() - self.initial.double()
        speakers = [call.role if call else None for call in self.batch.trained]
        every = range(len(self.batch.episodes))
        calls = torch.cat(
            [
                NOTHING.long(),
                *(micro_batch.token_call for micro_batch in self.batch.micro_batches(every, self.micro_tokens)),
            ]
        )
        said = {role: torch.tensor([for_role == role for for_role in speakers])[calls] for role in get_args(Role)}
        return {role: float(k3(moved[mine]).mean()) for role, mine in said.items() if mine.any()}


def logprobs(policy: Policy, batch: Batch, temperature: float, micro_tokens: int) -> Tensor:
    """[N] of a batch's trained tokens under the weights of now, micro-batch by micro-batch."""
    device = next(policy.parameters()).device
    micro_batches = [*batch.micro_batches(range(len(batch.episodes)), micro_tokens)]
    found = ranks.computed(micro_batches, lambda micro_batch: policy(micro_batch.to(device), temperature).logprobs)
    return torch.cat([NOTHING, *found])

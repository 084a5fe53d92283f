"""The policy: a causal language model of transformers, and a value head. Knows tensors and no text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pilotrl.attention  # noqa: F401  (registers the attention function named below)
from pilotrl import PACKAGE
from pilotrl.batch import Micro


@dataclass(frozen=True)
class Scored:
    """What one forward pass says of a micro-batch."""

    logprobs: Tensor
    """[N] of the trained tokens, with gradient."""
    entropy: Tensor
    """[N] of the distributions they were drawn from, in nats, without gradient."""
    values: Tensor
    """[C] before each call; empty without a value head."""


class Policy(nn.Module):
    """`model` scores and generates; `value` maps the state at a call's last prompt token to one number.

    Always in evaluation mode: with dropout the first importance ratio would not be 1.
    """

    def __init__(self, model: Any, critic: bool) -> None:
        super().__init__()
        self.model = model
        self.value = nn.Linear(model.config.hidden_size, 1) if critic else None
        if self.value is not None:
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)
        self.train(False)

    def train(self, mode: bool = True) -> Policy:
        return super().train(False)

    def forward(self, micro: Micro, temperature: float) -> Scored:
        """Score a micro-batch's trained tokens and calls, under the temperature they were sampled at."""
        position = torch.arange(micro.ids.shape[1], device=micro.ids.device).unsqueeze(0)
        hidden = self.model.get_decoder()(
            input_ids=micro.ids, position_ids=position, use_cache=False
        ).last_hidden_state
        logits = self.model.get_output_embeddings()(hidden[micro.token_row, micro.token_position - 1])
        logits = logits.float() / temperature
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.gather(1, micro.ids[micro.token_row, micro.token_position][:, None])[:, 0]
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)
        if self.value is None:
            return Scored(chosen, entropy, chosen.new_empty(0))
        # One value a call; the head learns from the policy's states, but does not bend them.
        state = hidden[micro.call_row, micro.call_position].detach().float()
        return Scored(chosen, entropy, self.value(state)[:, 0])


def resolve(path: str) -> str:
    """Where a model is: `pilotrl:NAME` is a folder of the package, anything else is for transformers to find."""
    return str(PACKAGE / "weights" / path.removeprefix("pilotrl:")) if path.startswith("pilotrl:") else path


def load_model(path: str, dtype: str) -> Any:
    """A causal LM from a local folder, the package, or a model hub, with our attention function."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        resolve(path), dtype=getattr(torch, dtype), attn_implementation="pilotrl"
    )


def load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve(path))


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write what `from_pretrained` loads anywhere: transformers leaves the name of our attention function out."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weights_sha256(module: nn.Module) -> str:
    """Of all parameters and buffers, by name, in their own bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

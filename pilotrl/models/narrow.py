"""A model with adapters, computed in its own narrow dtype: adapters beside it, and what is frozen laid out for generation."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class Frozen:
    """What a linear layer computes whose weight is not trained: `forward` of such a layer.

    Where text is generated on a CPU, from a copy of the weight in oneDNN's own layout, which is made once. A plain weight is
    brought into that layout for each product: for eight tokens that is a quarter to two fifths of its time (SmolLM2's layers).
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.seen: tuple[int, int] | None = None
        """Place and version of the weight when it was laid out. peft's merging writes past both."""
        self.laid_out: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        laid_out = self.lay_out(weight) if torch.is_inference_mode_enabled() else None
        if laid_out is None:
            return nn.functional.linear(x, weight, bias)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")
        return y

    def lay_out(self, weight: Tensor) -> Tensor | None:
        """The copy of the weight as it is now."""
        if self.seen != (now := (weight.data_ptr(), weight._version)):
            self.seen, self.laid_out = now, laid_out(weight.detach())
        return self.laid_out

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"seen": None, "laid_out": None}  # a tensor in such a layout cannot be copied


def laid_out(weight: Tensor) -> Tensor | None:
    """The weight in oneDNN's layout; None where oneDNN has none for it, or torch lacks these functions of its compiler."""
    onednn: Any = torch.backends.mkldnn
    ops: Any = torch.ops.mkldnn
    narrow = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
    there = narrow and onednn.is_available() and hasattr(ops, "_linear_pointwise")
    return ops._reorder_linear_weight(weight) if there and ops._is_mkldnn_bf16_supported() else None


def is_frozen(layer: Any) -> bool:
    """Whether this is a plain linear layer that is not trained: the base of an adapter, the head, or one without adapters."""
    return type(layer) is nn.Linear and not layer.weight.requires_grad


def narrowed(model: Any) -> Any:
    """The model, with plain adapters multiplied in its own dtype, as vLLM does; their weights and moments stay in float32.

    peft's own way casts what goes into each of them to float32, and keeps it."""
    from peft.tuners.lora import Linear

    for layer in model.modules() if model.dtype != torch.float32 else ():
        if isinstance(layer, Linear) and not layer.lora_variant and not any(layer.lora_bias.values()):
            layer.forward = partial(with_adapter, layer)
        elif is_frozen(layer):
            layer.forward = Frozen(layer)
    return model


def with_adapter(layer: Any, x: Tensor) -> Tensor:
    """[..., out] of a layer of peft with the adapter in force, computed in the dtype of x [..., in]."""
    rows = x.flatten(0, -2)
    own: Tensor = layer.base_layer(rows)
    if not layer.disable_adapters:
        (name,) = layer.active_adapters
        down, up = layer.lora_A[name].weight.to(x.dtype), (layer.lora_B[name].weight * layer.scaling[name]).to(x.dtype)
        own.addmm_(nn.functional.linear(rows, down), up.mT)
    return own.view(*x.shape[:-1], own.shape[-1])

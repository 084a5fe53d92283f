"""A new model's heads may begin as copies of what they look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pilotrl.models import from_scratch

SIZES = {"vocabulary": 300, "width": 32, "inner": 64, "layers": 3, "heads": 4, "kv_heads": 2, "positions": 64}


@pytest.mark.parametrize("copying", [0, 1, 3])
def test_a_head_that_copies_raises_the_logit_of_what_it_looks_at(copying: int, tmp_path: Path) -> None:
    from_scratch.build(tmp_path, ["open the red door"], seed=0, copying=copying, **SIZES)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    words = model.get_input_embeddings().weight.detach()[1:]  # without padding, which is zero
    for number, layer in enumerate(model.model.layers):
        read, write = layer.self_attn.v_proj.weight.detach(), layer.self_attn.o_proj.weight.detach()
        values = (words @ read.T).view(len(words), 2, 8).repeat_interleave(2, 1)  # two heads read each
        for head in range(4):
            own = ((values[:, head] @ write[:, 8 * head : 8 * head + 8].T) * words).sum(-1)
            assert (bool((own > 0).all())) == (number >= 3 - copying)
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()

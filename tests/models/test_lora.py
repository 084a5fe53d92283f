"""LoRA adapters: frozen weights stay, saved ones load with plain peft, and gradient checkpointing only changes memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from pilotrl.engine.local import LocalEngine
from pilotrl.models import policy
from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.policy import Policy, acting_sha256, learned, weights_sha256
from pilotrl.types import Request

TARGETS = ["q_proj", "v_proj", "down_proj"]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 30, 31]])


def with_adapters(folder: Path, dtype: str = "float32", checkpointing: bool = False) -> Any:
    return policy.load_model(str(folder), dtype, checkpointing, 4, 8.0, TARGETS)


def stir(model: nn.Module) -> None:
    """Fill the adapters with random values: new ones add nothing."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)


def logprobs(model: Any) -> Tensor:
    logits: Tensor = model(IDS, use_cache=False).logits
    return logits.float().log_softmax(-1)


def test_new_adapters_change_no_output_and_are_the_only_trainable_parameters(tiny: Path, model: Any) -> None:
    adapted = with_adapters(tiny)
    torch.testing.assert_close(logprobs(adapted), logprobs(model), atol=0, rtol=0)
    names = list(learned(adapted))
    assert len(names) == 2 * len(TARGETS) * 2  # two matrices, two layers
    assert all("lora_" in name for name in names)
    stir(adapted)
    assert (logprobs(adapted) - logprobs(model)).abs().max() > 0.1


def test_what_is_saved_is_what_plain_peft_loads(tiny: Path, tokenizer: Any, tmp_path: Path) -> None:
    adapted = with_adapters(tiny)
    stir(adapted)
    policy.save(adapted, tokenizer, tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["adapter_model.safetensors"]
    base = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path)
    torch.testing.assert_close(logprobs(plain), logprobs(adapted), atol=1e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template


def test_a_run_starts_from_the_adapters_of_its_parent(tiny: Path, tokenizer: Any, tmp_path: Path) -> None:
    adapted = with_adapters(tiny)
    stir(adapted)
    policy.save(adapted, tokenizer, tmp_path)
    again = with_adapters(tmp_path)
    assert weights_sha256(again) == weights_sha256(adapted)
    assert policy.base_of(str(tmp_path)) == str(tiny)
    merged = policy.load_model(str(tmp_path), "float32")
    torch.testing.assert_close(logprobs(merged), logprobs(adapted), atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert not any("lora" in name for name in merged.state_dict())


def test_the_hash_is_of_what_is_trained(tiny: Path) -> None:
    adapted = with_adapters(tiny)
    before = weights_sha256(adapted)
    adapted.get_input_embeddings().weight.data += 1
    assert weights_sha256(adapted) == before
    next(p for p in adapted.parameters() if p.requires_grad).data += 1
    assert weights_sha256(adapted) != before


def test_training_changes_adapters_and_nothing_else(training: Callable[..., Any], tiny: Path) -> None:
    run = training(model=with_adapters(tiny), steps=2)
    before = {name: tensor.clone() for name, tensor in run.policy.state_dict().items()}
    run.fit()
    changed = {name for name, tensor in run.policy.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(learned(run.policy))


def gradients(adapted: Any) -> tuple[list[Tensor], int]:
    """Gradients of some loss, and the bytes that the forward pass kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in adapted.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = adapted.model.get_decoder()(input_ids=IDS.repeat(8, 1), use_cache=False).last_hidden_state
        loss = hidden.square().sum()
    loss.backward()
    return [p.grad for p in adapted.parameters() if p.requires_grad], sum(
        v for k, v in kept.items() if k not in weights
    )


def test_checkpointing_changes_memory_and_no_gradient(tiny: Path) -> None:
    plain, sparing = (Policy(with_adapters(tiny, checkpointing=on), critic=False) for on in (False, True))
    for one in (plain, sparing):
        stir(one)
    (whole, much), (again, little) = gradients(plain), gradients(sparing)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert little < much / 4
    learning = [type(module).__name__ for module in sparing.train().modules() if module.training]
    assert learning == ["LlamaDecoderLayer"] * 2  # and no dropout inside


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_engine_generates_with_the_adapters(tiny: Path, checkpointing: bool) -> None:
    model = Policy(with_adapters(tiny, checkpointing=checkpointing), critic=False).model
    stir(model)
    engine, prompt = LocalEngine(model=model, end=1, slots=2), [3, 9, 20, 40]
    engine.submit(Request((0, 0), prompt, 6, 1.0, 1.0, seed=5))
    replies = [reply for _ in range(6) for reply in engine.step()]
    ids, recorded = replies[0].ids, torch.tensor(replies[0].logprobs)
    logits = model(torch.tensor([prompt + ids]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    again = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
    torch.testing.assert_close(recorded, again, atol=1e-4, rtol=0)


def test_adapters_of_a_bfloat16_model_learn_in_float32(training: Callable[..., Any], tiny: Path) -> None:
    run = training(model=with_adapters(tiny, "bfloat16"), steps=1, lr=1e-4)
    kinds = {name.rpartition("lora_")[0] != "": p.dtype for name, p in run.policy.model.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    before = run.weights()
    run.fit()
    assert run.module.metrics["train/grad_norm"] > 0
    assert (run.weights() - before).abs().max() == pytest.approx(1e-4, rel=0.1)


def test_adapters_are_multiplied_in_the_models_dtype(tiny: Path) -> None:
    """Log-probabilities and the gradients of the float32 weights differ by rounding; switched off, it is the base model."""
    exact, narrow = (with_adapters(tiny, dtype) for dtype in ("float32", "bfloat16"))
    found = list[tuple[Tensor, ...]]()
    for model in (exact, narrow):
        stir(model)
        said = logprobs(model)
        said[..., 7].sum().backward()
        found.append((said.detach(), *(p.grad for p in model.parameters() if p.requires_grad)))
    for true, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - true).norm() < 0.1 * true.norm()
    assert any("forward" in vars(layer) for layer in narrow.modules() if isinstance(layer, Linear))
    with narrow.disable_adapter():
        alone = policy.load_model(str(tiny), "bfloat16")
        torch.testing.assert_close(logprobs(narrow), logprobs(alone), atol=0, rtol=0)


def test_each_role_has_its_own_adapter_in_bfloat16_and_the_reference_has_none(tiny: Path) -> None:
    made = policy.load_model(str(tiny), "bfloat16", True, 4, 8.0, TARGETS, roles="separate")
    whole = Policy(made, critic=False)
    stir(made)
    row = MicroBatch.of([IDS[0].tolist()], range(2, 9), "planner")
    planner, executor = (whole(replace(row, adapter=role), 1.0).logprobs for role in ("planner", "executor"))
    assert (planner - executor).abs().max() > 0.1
    base = Policy(policy.load_model(str(tiny), "bfloat16"), critic=False)
    alone = base(replace(row, adapter=None), 1.0).logprobs
    torch.testing.assert_close(whole.reference(row, 1.0), alone.detach(), atol=0, rtol=0)
    planner.sum().backward()
    learning = {name for name, p in whole.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {name for name, p in whole.named_parameters() if p.requires_grad and ".planner." in name}


@pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning")
@pytest.mark.parametrize("kind", ["use_dora", "lora_bias"])
def test_other_kinds_of_adapters_are_pefts_own(tiny: Path, tmp_path: Path, kind: str) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16)
    made = get_peft_model(base, LoraConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM", **{kind: True}))
    stir(made)
    made.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16), tmp_path)
    ours = with_adapters(tmp_path, "bfloat16")
    torch.testing.assert_close(logprobs(ours), logprobs(plain), atol=0.1, rtol=0)
    assert not any("forward" in vars(layer) for layer in ours.modules() if isinstance(layer, Linear))


def test_models_that_say_the_same_have_one_hash_however_their_new_adapters_were_drawn(tiny: Path) -> None:
    torch.manual_seed(1)
    first = with_adapters(tiny)
    torch.manual_seed(2)
    second = with_adapters(tiny)
    assert weights_sha256(first) != weights_sha256(second)
    assert acting_sha256(first) == acting_sha256(second)
    name, frozen = next((name, p) for name, p in second.named_parameters() if not p.requires_grad)
    with torch.no_grad():
        frozen.view(-1)[0] += 1.0
    assert acting_sha256(first) != acting_sha256(second), name
    with torch.no_grad():
        frozen.copy_(first.get_parameter(name))
        assert acting_sha256(first) == acting_sha256(second)
        next(p for name, p in second.named_parameters() if "lora_B" in name).view(-1)[0] = 1e-8
    assert acting_sha256(first) != acting_sha256(second)

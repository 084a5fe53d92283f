"""Losses and credits equal TRL's on the same batch: its own trainers, run on a tiny random model, are the reference."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pilotrl.training.algorithms import Loss, grpo
from tests.training.algorithms.records import built, played, scored

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # where vLLM is installed TRL imports it, and both warn; no test lets it use that
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

REWARDS: list[float | None] = [0.1, 0.5, None, 1.0, 0.3, 0.3, 0.3, 0.3, None, None, 0.7, None, 0.25, 0.75, 0.5, 0.35]
PROMPTS = ["w1 w2", "w3", "w4 w5 w6", "w7"]
MEMBERS = 4


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(20)} | {"<pad>": 20, "<eos>": 21}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = {"vocab_size": 22, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**size, **heads, pad_token_id=20, eos_token_id=21, bos_token_id=None))


def trl(
    folder: Path, config: Any = GRPOConfig, kind: Any = GRPOTrainer, **options: Any
) -> tuple[Any, dict[str, Tensor]]:
    """TRL's trainer, and what it makes of 16 sampled completions with `REWARDS`."""
    args = config(
        output_dir=str(folder),
        per_device_train_batch_size=len(REWARDS),
        gradient_accumulation_steps=1,
        num_generations=MEMBERS,
        max_completion_length=6,
        report_to="none",
        use_cpu=True,
        bf16=False,
        **options,
    )
    trainer = kind(
        model=tiny_model(),
        reward_funcs=lambda completions, **_: REWARDS,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tiny_tokenizer(),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [{"prompt": prompt} for prompt in PROMPTS for _ in range(MEMBERS)]
    return trainer, trainer._generate_and_score_completions(rows)


def rewards_and_groups() -> tuple[Tensor, Tensor]:
    rewards = torch.tensor([float("nan") if r is None else r for r in REWARDS], dtype=torch.float64)
    return rewards, torch.arange(len(PROMPTS)).repeat_interleave(MEMBERS)


@pytest.mark.parametrize("scale", [True, False])
def test_advantages_equal_trl(tmp_path: Path, scale: bool) -> None:
    _, batch = trl(tmp_path, scale_rewards=scale)
    rewards, group = rewards_and_groups()
    torch.testing.assert_close(
        grpo.advantages(rewards, group, scale).float(), batch["advantages"], rtol=1e-5, atol=1e-6
    )
    assert batch["advantages"].any()


@pytest.mark.parametrize(
    ("name", "ours", "options"),
    [
        ("dapo", {}, {"scale_rewards": "group"}),
        ("dr_grpo", {}, {"scale_rewards": "none"}),
        ("reinforce_pp", {"group_baseline": True}, {"scale_rewards": "batch"}),
        ("rloo", {}, {"config": RLOOConfig, "kind": RLOOTrainer, "beta": 0.0}),
    ],
)
def test_credits_equal_trl(tmp_path: Path, name: str, ours: dict[str, Any], options: dict[str, Any]) -> None:
    _, batch = trl(tmp_path, **options)
    rewards, group = rewards_and_groups()
    found = built(name, **ours).advantages(played(rewards, group, torch.arange(len(rewards)))).advantages
    torch.testing.assert_close(found.float(), batch["advantages"], rtol=1e-6, atol=1e-6)


def perturbed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Observations masked out, and ratios that reach every clip."""
    torch.manual_seed(1)
    present = batch["completion_ids"].new_zeros(batch["completion_ids"].shape, dtype=torch.float32)
    tool_mask = (torch.rand_like(present) < 0.8).long()
    tool_mask[:, 0] = 1
    mask = batch["completion_mask"] * tool_mask
    old = -3.0 + torch.randn_like(present)  # the model itself is near -3.1 everywhere
    return batch | {"old_per_token_logps": old, "tool_mask": tool_mask, "num_items_in_batch": mask.sum()}


def our_loss(model: LlamaForCausalLM, batch: dict[str, Tensor], name: str, **options: Any) -> Loss:
    """Flat trained tokens of TRL's padded batch, a completion a call, through a loss of ours."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    width = batch["completion_ids"].size(1)
    logits = model(input_ids=ids, attention_mask=seen).logits[:, -width - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    trained = (batch["completion_mask"] * batch["tool_mask"]).bool()
    episode = trained.nonzero()[:, 0]
    old, advantages = batch["old_per_token_logps"][trained], batch["advantages"][episode]
    known = {"token_call": episode, "call": torch.arange(len(ids)), "calls": len(ids)}
    known["entropy"] = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)[trained]
    known["reference"] = batch.get("ref_per_token_logps", batch["old_per_token_logps"])[trained]
    return built(name, **options).loss(scored(logprobs[trained], old, advantages, **known))


def gradient(loss: Tensor, model: LlamaForCausalLM) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


HIGHER = {"clip_low": 0.2, "clip_high": 0.28}
LOSSES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dapo": ("dapo", {}, {"loss_type": "dapo"}),
    "bnpo in one batch": ("dapo", {}, {"loss_type": "bnpo"}),
    "dapo, two-sided clip": ("loss/clip", {**HIGHER, "dual_clip": 3.0}, {"loss_type": "dapo", "delta": 3.0}),
    "grpo": ("loss/clip_by_call", {**HIGHER, "dual_clip": None}, {"loss_type": "grpo"}),
    "grpo, two-sided clip": ("loss/clip_by_call", {**HIGHER, "dual_clip": 3.0}, {"loss_type": "grpo", "delta": 3.0}),
    "dr_grpo": ("dr_grpo", {**HIGHER, "length": 6}, {"loss_type": "dr_grpo"}),
    "gspo": ("gspo", {**HIGHER}, {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
    "cispo": ("cispo", {"clip_high": 0.28}, {"loss_type": "cispo", "epsilon_high": 1.28}),
    "sapo": ("sapo", {}, {"loss_type": "sapo"}),
}


@pytest.mark.parametrize("case", LOSSES)
def test_loss_and_gradient_equal_trl(tmp_path: Path, case: str) -> None:
    name, ours, options = LOSSES[case]
    trainer, batch = trl(tmp_path, **{"epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0, **options})
    model, batch = trainer.model, perturbed(batch)
    theirs, found = trainer.compute_loss(model, batch), our_loss(model, batch, name, **ours)
    torch.testing.assert_close(found.value, theirs, rtol=1e-6, atol=1e-6)
    expected = gradient(theirs, model)
    torch.testing.assert_close(gradient(found.value, model), expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3
    if name == "dapo":
        shares = (trainer._metrics["train"][f"clip_ratio/{side}_mean"][-1] for side in ("low", "high", "region"))
        low, high, both = shares
        assert low > 0.02
        assert high > 0.02
        assert float(found.stats["clip_ratio"]) == pytest.approx(both)
    if ours.get("dual_clip"):
        assert found.value < our_loss(model, batch, name, **ours | {"dual_clip": None}).value - 0.02


@pytest.mark.parametrize("case", LOSSES)
def test_kl_to_a_reference_and_entropy_bonus_equal_trl(tmp_path: Path, case: str) -> None:
    """But for `gspo`, whose ratio beside the KL is of a whole reply there, which makes it biased."""
    beta = 0.0 if case == "gspo" else 0.3
    name, ours, options = LOSSES[case]
    given = {"epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0, "entropy_coef": 0.07, **options}
    trainer, batch = trl(tmp_path, **given)
    model, batch = trainer.model, perturbed(batch)
    trainer.beta = beta  # given to the trainer, it looks for a reference model on a hub
    batch["ref_per_token_logps"] = -3.0 + 0.5 * torch.randn_like(batch["old_per_token_logps"])
    theirs = trainer.compute_loss(model, batch)
    found = our_loss(model, batch, name, **ours, beta=beta, entropy_coef=0.07)
    torch.testing.assert_close(found.value, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient(found.value, model), gradient(theirs, model), rtol=1e-4, atol=1e-6)
    if beta:
        assert float(found.stats["ref_kl"]) == pytest.approx(trainer._metrics["train"]["kl"][-1], rel=1e-5)

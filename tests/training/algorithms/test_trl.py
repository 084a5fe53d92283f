"""GRPO equals TRL's on the same batch: its own trainer, run on a tiny random model, is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from pilotrl.training.algorithms import grpo

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


def trl(folder: Path, **options: Any) -> tuple[GRPOTrainer, dict[str, Tensor]]:
    """TRL's trainer, and what it makes of 16 sampled completions with `REWARDS`."""
    args = GRPOConfig(
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
    trainer = GRPOTrainer(
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


def our_loss(model: LlamaForCausalLM, batch: dict[str, Tensor], dual_clip: float | None) -> tuple[Tensor, Any]:
    """Flat trained tokens of TRL's padded batch, through our loss."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    width = batch["completion_ids"].size(1)
    logits = model(input_ids=ids, attention_mask=seen).logits[:, -width - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    trained = (batch["completion_mask"] * batch["tool_mask"]).bool()
    episode = trained.nonzero()[:, 0]
    old, advantages = batch["old_per_token_logps"][trained], batch["advantages"][episode]
    return grpo.loss(logprobs[trained], old, advantages, float(trained.sum()), 0.2, 0.28, dual_clip)


def gradient(loss: Tensor, model: LlamaForCausalLM) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("dual_clip", [3.0, None])
def test_loss_and_gradient_equal_trl(tmp_path: Path, dual_clip: float | None) -> None:
    """Token mean over the batch, observations masked out, and ratios that reach every clip."""
    trainer, batch = trl(tmp_path, loss_type="dapo", epsilon=0.2, epsilon_high=0.28, delta=dual_clip, beta=0.0)
    model = trainer.model
    torch.manual_seed(1)
    with torch.no_grad():
        present = batch["completion_ids"].new_zeros(batch["completion_ids"].shape, dtype=torch.float32)
        batch["old_per_token_logps"] = -3.0 + torch.randn_like(present)  # the model itself is near -3.1 everywhere
        batch["tool_mask"] = (torch.rand_like(present) < 0.8).long()
        batch["num_items_in_batch"] = (batch["completion_mask"] * batch["tool_mask"]).sum()
    theirs = trainer.compute_loss(model, batch)
    ours, stats = our_loss(model, batch, dual_clip)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(ours, model), gradient(theirs, model), rtol=1e-4, atol=1e-6)
    low, high, both = (trainer._metrics["train"][f"clip_ratio/{side}_mean"][-1] for side in ("low", "high", "region"))
    assert low > 0.02
    assert high > 0.02
    if dual_clip is None:
        assert stats["clip_ratio"].item() == pytest.approx(both)
    else:  # which their shares leave out
        assert stats["clip_ratio"].item() > both + 0.02
        assert ours < our_loss(model, batch, None)[0] - 0.02

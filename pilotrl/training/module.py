"""The Lightning module: policy and value head, one training step, the optimizer.

The step is synchronous policy optimization: the batch was played by these very weights; credit is computed over whole
groups; each minibatch of episodes is one optimizer update, cut into micro-batches that change memory and nothing else,
since whatever is divided by is counted over the whole minibatch and all ranks beforehand. Rows that teach nothing (a dead
group's) are counted there and left out of the forward pass, which changes no gradient.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from itertools import chain
from typing import Any, TypeVar

import torch
from lightning import LightningModule
from torch import Tensor

from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.policy import Policy, learned
from pilotrl.training.algorithms import Algorithm, Played, Scored
from pilotrl.training.batch import Batch

T = TypeVar("T")


class PilotModule(LightningModule):
    """`version` counts training steps; it is saved with the weights, and every batch has to carry it."""

    version: Tensor

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        *,
        seed: int,
        steps: int,
        minibatches: int,
        micro_tokens: int,
        temperature: float,
        lr: float,
        lr_schedule: str,
        lr_warmup: int,
        weight_decay: float,
        grad_clip: float,
        value_lr: float,
        muon_lr: float | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy, self.algorithm = policy, algorithm
        self.seed, self.steps, self.minibatches, self.micro_tokens = seed, steps, minibatches, micro_tokens
        self.temperature, self.grad_clip = temperature, grad_clip
        self.lr, self.lr_schedule, self.lr_warmup = lr, lr_schedule, lr_warmup
        self.weight_decay, self.value_lr, self.muon_lr = weight_decay, value_lr, muon_lr
        self.metrics: dict[str, float] = {}
        self.register_buffer("version", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Credit, then one optimizer update a minibatch."""
        start, step = time.perf_counter(), int(self.version)
        if batch.version != step:
            raise RuntimeError(f"the batch was played by weights of version {batch.version}, these are version {step}")
        played = batch.played(self.values(batch))
        credit = self.algorithm.advantages(played)
        returns = torch.full_like(credit.advantages, math.nan) if credit.returns is None else credit.returns
        batch.credit(credit.advantages)
        weights = credit.advantages * batch.call_weight
        has_gradient = batch.rows_with((weights != 0) | returns.isfinite())
        groups = len(set(batch.group.tolist()))
        totals = {
            name: share * groups / batch.groups for name, share in credit.stats.items()
        }  # a mean over all ranks' groups
        norm = 0.0
        dealt = batch.minibatches(self.minibatches, self.seed * 1_000_003 + step)
        minibatches = [(part, seen) for part in dealt if (seen := self.total(batch.tokens(part, has_gradient)))]
        for episodes, seen in minibatches:
            calls = batch.calls(episodes)
            tokens = self.total(batch.tokens(episodes))
            counts = self.total(int(calls.sum())), self.total(int(returns[calls].isfinite().sum()))
            for micro_batch in batch.micro_batches(episodes, self.micro_tokens, has_gradient):
                scored = self.scored(micro_batch, played, weights, returns, tokens, *counts)
                loss = self.algorithm.loss(scored)
                with self.unsynced():
                    self.manual_backward(loss.value)
                stats = {
                    name: value * tokens / seen for name, value in loss.stats.items()
                }  # of tokens; calls miss none
                stats |= {"loss": loss.value.detach(), "entropy": scored.entropy.sum() / seen}
                for name, value in stats.items():
                    totals[name] = totals.get(name, 0.0) + float(value) / len(minibatches)
            norm += self.update(step) / len(minibatches)
        self.version += 1
        logged = self.summed(totals) | {"grad_norm": norm, "lr": self.lr * self.lr_factor(step)}
        self.metrics = {f"train/{name}": value for name, value in logged.items()}
        self.metrics["seconds/update"] = time.perf_counter() - start

    def scored(
        self,
        micro_batch: MicroBatch,
        played: Played,
        weights: Tensor,
        returns: Tensor,
        tokens: float,
        calls: float,
        targets: float,
    ) -> Scored:
        """A forward pass over a micro-batch, as the algorithm is shown it."""
        output = self.policy(micro_batch.to(self.device), self.temperature)
        return Scored(
            logprobs=output.logprobs,
            old_logprobs=micro_batch.logprobs.to(self.device),
            entropy=output.entropy,
            advantages=weights[micro_batch.token_call].to(self.device),
            token_call=torch.searchsorted(micro_batch.call, micro_batch.token_call).to(self.device),
            call=micro_batch.call,
            values=output.values,
            returns=returns[micro_batch.call].to(self.device),
            played=played,
            tokens=tokens,
            calls=calls,
            targets=targets,
        )

    def update(self, step: int) -> float:
        """One optimizer update; returns the norm of the gradient before clipping."""
        self.sum_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.grad_clip)
        chosen: Any = self.optimizers()
        for optimizer in chosen if isinstance(chosen, list) else [chosen]:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self.lr_factor(step)
            optimizer.step()
            optimizer.zero_grad()
        return float(norm)

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """[C] of the value head under the weights that played; empty without one."""
        values = torch.zeros(len(batch.call_episode) if self.algorithm.critic else 0)
        if self.algorithm.critic:
            for micro_batch in batch.micro_batches(range(len(batch.episodes)), self.micro_tokens):
                values[micro_batch.call] = self.policy(micro_batch.to(self.device), self.temperature).values.cpu()
        return values

    @torch.no_grad()
    def recomputed(self, batch: Batch) -> Tensor:
        """[N] log-probabilities of the trained tokens under the present weights, a row at a time."""
        found = torch.zeros_like(batch.logprobs)
        for row in range(len(batch.rows)):
            scored = self.policy(batch.micro_batch([row]).to(self.device), self.temperature)
            found[batch.token_row == row] = scored.logprobs.cpu()
        return found

    def lr_factor(self, step: int) -> float:
        """Share of the learning rate at a step: linear warm-up, then constant, or to zero by a line or half a cosine."""
        left = 1 - step / self.steps
        shape = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[self.lr_schedule]
        return shape * min(1.0, (step + 1) / (self.lr_warmup + 1))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW, with a learning rate of its own for the value head; Muon for matrices inside the blocks, if asked for,
        but not for adapters."""
        learned = {name: p for name, p in self.policy.model.named_parameters() if p.requires_grad}
        whole = {name: p for name, p in learned.items() if "layers." in name and "lora_" not in name}
        inner = [p for p in whole.values() if self.muon_lr and p.ndim == 2]
        outer = [p for p in learned.values() if not any(p is q for q in inner)]
        head = [] if self.policy.value is None else [*self.policy.value.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": outer, "lr": self.lr, "weight_decay": self.weight_decay},
            {"params": head, "lr": self.value_lr, "weight_decay": 0.0},
        ]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.95))
        ]
        if inner:
            optimizers.append(torch.optim.Muon(inner, lr=self.muon_lr or 0.0, weight_decay=self.weight_decay))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        return optimizers

    def total(self, count: int) -> float:
        """A count, summed over all ranks."""
        counted = torch.tensor(float(count), device=self.device)
        return float(self.trainer.strategy.reduce(counted, reduce_op="sum"))

    def everyones(self, held: T) -> list[T]:
        """What each rank holds, in their order."""
        if not torch.distributed.is_initialized():
            return [held]
        every = [held] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(every, held)
        return every

    def summed(self, stats: dict[str, float]) -> dict[str, float]:
        """Stats summed over all ranks, of which one without rows may lack some."""
        every = self.everyones(stats)
        return {name: sum(one.get(name, 0.0) for one in every) for name in dict.fromkeys(chain(*every))}

    def sum_gradients(self) -> None:
        """Add up the ranks' gradients, in one piece: their losses are parts of one mean already."""
        if self.trainer.world_size > 1:
            learned = [p for p in self.parameters() if p.requires_grad]
            held = torch.tensor([p.grad is not None for p in learned], device=self.device)
            flat = torch.cat([*((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learned), held])
            torch.distributed.all_reduce(flat)
            *grads, held = torch.split(flat, [*(p.numel() for p in learned), len(learned)])
            for p, grad, ranks in zip(learned, grads, held.tolist(), strict=True):
                p.grad = grad.view_as(p) if ranks else None  # without, the optimizer leaves it alone, as on one rank

    def unsynced(self) -> Any:
        """Keep the strategy from averaging gradients by itself: a rank may have fewer micro-batches than another."""
        block = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return block()

    @torch.no_grad()
    def held_out_loss(self, batch: Batch) -> float:
        """Cross entropy in nats a token on demonstrations of tasks that are never trained on; nan: all of them were broken."""
        everything = range(len(batch.episodes))
        micro_batches = batch.micro_batches(everything, self.micro_tokens)
        loss = sum(
            float(-self.policy(micro_batch.to(self.device), self.temperature).logprobs.sum())
            for micro_batch in micro_batches
        )
        total = self.summed({"loss": loss, "tokens": batch.tokens(everything)})
        return total["loss"] / total["tokens"] if total["tokens"] else math.nan

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = learned(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Frozen weights are loaded already."""
        checkpoint["state_dict"] = self.state_dict() | checkpoint["state_dict"]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """A batch stays where it is; micro-batches follow the weights."""
        return batch

"""The Lightning module: policy and value head, one training step, the optimizer.

The step is synchronous policy optimization: the batch was played by these very weights, or with a lag by those of a step ago
(`lag.py`); credit is computed over whole groups; each minibatch of episodes is one optimizer update, cut into micro-batches that
change memory and nothing else, since whatever is divided by is counted over the whole minibatch beforehand. Rows that teach
nothing (a dead group's) are counted there and left out of the forward pass, which changes no gradient. All ranks hold the same
batch and count alike; they share its micro-batches, and add up their gradients.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from pilotrl.models import sharding
from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.policy import Policy, learned
from pilotrl.rollout import stopwatch
from pilotrl.training import mismatch, ranks
from pilotrl.training.algorithms import Algorithm, Played, Scored
from pilotrl.training.algorithms.losses import Regularized
from pilotrl.training.batch import Batch
from pilotrl.training.lag import Lagged


class PilotModule(LightningModule):
    """`version` counts training steps; it is saved with the weights, and every batch has to carry it, or with a `lag` of 1 the
    one before. copied: a copy of the weights plays, and the difference is logged."""

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
        copied: bool = False,
        lag: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy, self.algorithm = policy, algorithm
        self.seed, self.steps, self.minibatches, self.micro_tokens = seed, steps, minibatches, micro_tokens
        self.temperature, self.grad_clip = temperature, grad_clip
        self.lr, self.lr_schedule, self.lr_warmup = lr, lr_schedule, lr_warmup
        self.weight_decay, self.value_lr, self.muon_lr = weight_decay, value_lr, muon_lr
        self.correction, self.copied = getattr(algorithm, "correction", "none"), copied
        self.lag, self.lagged = lag, Lagged(policy.model, lag)
        terms = (algorithm.beta, algorithm.entropy_coef) if isinstance(algorithm, Regularized) else (0.0, 0.0)
        self.beta, self.entropy_coef = terms
        self.metrics: dict[str, float] = {}
        self.register_buffer("version", torch.zeros((), dtype=torch.long))

    @stopwatch.phase("train")
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Credit, then one optimizer update a minibatch."""
        step = int(self.version)
        if batch.version != max(0, step - self.lag):
            raise RuntimeError(f"the batch was played by weights of version {batch.version}, these are version {step}")
        played = batch.played(self.values(batch) if self.algorithm.critic else torch.empty(0))
        credit = self.algorithm.advantages(played)
        returns = torch.full_like(credit.advantages, math.nan) if credit.returns is None else credit.returns
        batch.credit(credit.advantages)
        weights = credit.advantages * batch.call_weight
        has_gradient = batch.rows_with((weights != 0) | returns.isfinite() | bool(self.beta or self.entropy_coef))
        parts, norm, moved = dict[str, float](), 0.0, [torch.empty(0)]
        if self.lag or self.correction != "none":
            self.look_back(batch)
        divided = batch.minibatches(self.minibatches, self.seed * 1_000_003 + step)
        minibatches = [(part, seen) for part in divided if (seen := batch.tokens(part, has_gradient))]
        for number, (episodes, seen) in enumerate(minibatches):
            mine, tokens = returns[batch.calls(episodes)], float(batch.tokens(episodes))
            counts = {"tokens": tokens, "calls": float(len(mine)), "targets": float(mine.isfinite().sum())}
            for _, micro, weight in ranks.dealt([*batch.micro_batches(episodes, self.micro_tokens, has_gradient)]):
                scored = self.scored(micro, played, weights, returns, **counts)
                loss = self.algorithm.loss(scored)
                moved += [self.apart(micro, scored)] if self.copied and weight and not number else []
                self.manual_backward(weight * loss.value)
                stats = {name: value * tokens / seen for name, value in loss.stats.items()}  # calls miss none
                stats |= {"loss": loss.value.detach(), "entropy": scored.entropy.detach().sum() / seen}
                for name, value in stats.items():
                    parts[name] = parts.get(name, 0.0) + weight * float(value) / len(minibatches)
            norm += self.update(step) / len(minibatches)
        self.version += 1
        logged = {**credit.stats, **ranks.summed(parts), "grad_norm": norm, "lr": self.lr * self.lr_factor(step)}
        self.metrics = {f"train/{name}": float(value) for name, value in logged.items()}
        self.metrics |= mismatch.stats(torch.cat(ranks.everyones(moved))) if self.copied else {}

    def look_back(self, batch: Batch) -> None:
        """Before a step's first update: have the weights that played say again what they said, where that is read, and keep the
        present ones, which with a lag play next."""
        if self.correction != "none" or self.copied:
            batch.recomputed = self.recomputed(batch)
        self.lagged.keep()

    def apart(self, micro: MicroBatch, scored: Scored) -> Tensor:
        """[N] log-probabilities of the learner less those of the engine, of a step's first minibatch: both of the weights that
        played."""
        return (micro.recomputed if self.lag else scored.logprobs.detach().cpu()) - micro.logprobs

    def scored(self, micro: MicroBatch, played: Played, weights: Tensor, returns: Tensor, **counts: float) -> Scored:
        """A forward pass over a micro-batch, as the algorithm is shown it."""
        there = micro.to(self.device)
        output = self.policy(there, self.temperature, self.entropy_coef > 0)
        old, advantages = micro.logprobs, weights[micro.token_call]
        if self.correction != "none":
            moved, old = micro.recomputed - old, micro.recomputed
            advantages = advantages * mismatch.weights(self.correction, moved, micro.token_call)
        return Scored(
            logprobs=output.logprobs,
            old_logprobs=old.to(self.device),
            reference=self.policy.reference(there, self.temperature) if self.beta else torch.empty(0),
            entropy=output.entropy,
            advantages=advantages.to(self.device),
            token_call=torch.searchsorted(micro.call, micro.token_call).to(self.device),
            call=micro.call,
            values=output.values,
            returns=returns[micro.call].to(self.device),
            played=played,
            **counts,
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

    def values(self, batch: Batch) -> Tensor:
        """[C] of the value head under the present weights."""
        micro_batches = [*batch.micro_batches(range(len(batch.episodes)), self.micro_tokens)]
        values = torch.zeros(len(batch.call_episode))
        found = ranks.computed(micro_batches, lambda micro: self.policy(micro.to(self.device), self.temperature).values)
        for micro_batch, of_calls in zip(micro_batches, found, strict=True):
            values[micro_batch.call] = of_calls
        return values

    def logprobs(self, micro: MicroBatch) -> Tensor:
        """[N] of a micro-batch's trained tokens under the present weights."""
        logprobs: Tensor = self.policy(micro.to(self.device), self.temperature).logprobs
        return logprobs

    def recomputed(self, batch: Batch) -> Tensor:
        """[N] log-probabilities of the trained tokens under the weights that played, a row at a time; before the step is learned
        from."""
        found = torch.zeros_like(batch.logprobs)
        alone = [batch.micro_batch([row]) for row in range(len(batch.rows))]
        for row, logprobs in enumerate(self.lagged.wrapped(ranks.computed)(alone, self.logprobs)):
            found[batch.token_row == row] = logprobs
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

    def sum_gradients(self) -> None:
        """Add up the ranks' gradients, in one piece: their losses are parts of one mean already."""
        if ranks.count() > 1 and self.device_mesh is None:  # else the backward pass has done it
            learned = [p for p in self.parameters() if p.requires_grad]
            held = torch.tensor([p.grad is not None for p in learned], device=self.device)
            flat = torch.cat([*((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learned), held])
            torch.distributed.all_reduce(flat)
            *grads, held = torch.split(flat, [*(p.numel() for p in learned), len(learned)])
            for p, grad, has in zip(learned, grads, held.tolist(), strict=True):
                p.grad = grad.view_as(p) if has else None  # without, the optimizer leaves it alone, as on one rank

    def held_out_loss(self, batch: Batch) -> float:
        """Cross entropy in nats a token on demonstrations of tasks that are never trained on; nan: all of them were broken."""
        everything = range(len(batch.episodes))
        micro_batches, tokens = [*batch.micro_batches(everything, self.micro_tokens)], batch.tokens(everything)
        losses = ranks.computed(micro_batches, lambda micro: -self.logprobs(micro).sum())
        return sum(map(float, losses)) / tokens if tokens else math.nan

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """DDP is not to average gradients by itself, after each micro-batch: `update` adds them up. Lightning has it do so again
        after each step."""
        model: Any = self.trainer.model
        model.require_backward_grad_sync = False

    def configure_model(self) -> None:
        """With `trainer.strategy=fsdp` each rank keeps a part of the weights."""
        if self.device_mesh is not None:
            sharding.shard(self.policy, self.device_mesh["data_parallel"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Of shards Lightning has gathered the whole, for the first rank."""
        checkpoint["state_dict"] = learned(self, checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Frozen weights are loaded already, and so are shards."""
        checkpoint["state_dict"] = self.state_dict() | checkpoint.get("state_dict", {})

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """A batch stays where it is; micro-batches follow the weights."""
        return batch

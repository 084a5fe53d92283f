"""What an interrupted run goes on from: Lightning's checkpoint, all random states, and the sizes of the run's files."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from pilotrl.store.run_folder import RunFolder


def save_whole(thing: Any, path: Path) -> None:
    """`torch.save`, after which the file is there as a whole: a run killed meanwhile leaves none, or the old one."""
    draft = path.with_suffix(".draft")
    torch.save(thing, draft)
    os.replace(draft, path)


class Checkpoints(Callback):
    """Saves every `every` steps and at the last, after `after_step`, which all ranks call, has written the step's lines;
    keeps the newest file. Before a step is learned from, the first rank's `before_step` sees it.

    A file appears whole or not at all, so a run killed anywhere finds the last whole one.
    """

    def __init__(
        self,
        folder: RunFolder,
        every: int,
        steps: int,
        before_step: Callable[[Any, Any], None],
        after_step: Callable[[Any, Any], None],
    ) -> None:
        self.folder, self.every, self.steps = folder, every, steps
        self.before_step, self.after_step = before_step, after_step
        self.sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """SIGTERM stays with whoever had it: Lightning's handler speaks to other ranks, in the middle of anything."""
        if callable(self.sigterm):
            signal.signal(signal.SIGTERM, self.sigterm)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero:
            self.before_step(batch, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.after_step(batch, pl_module)
        trainer.strategy.barrier()  # whether training is over, a rank reads from the lines that the first one writes
        done = int(pl_module.version)  # type: ignore[arg-type]
        if done % self.every and done != self.steps:
            return
        target = self.folder.checkpoints / f"step-{done:06d}.ckpt"
        draft = target.with_suffix(".draft")
        trainer.save_checkpoint(draft)
        if trainer.is_global_zero:
            os.replace(draft, target)
            for old in sorted(self.folder.checkpoints.glob("step-*.ckpt"))[:-1]:
                old.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {
            "offsets": self.folder.offsets(),
            "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        python, numpy, tensor = state_dict["random"]
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(tensor)


def latest(folder: RunFolder) -> Path | None:
    """The newest whole checkpoint of a run folder."""
    return max(folder.checkpoints.glob("step-*.ckpt"), default=None)


def offsets(checkpoint: Path) -> dict[str, int]:
    """Sizes of the run's files when the checkpoint was written."""
    callbacks = torch.load(checkpoint, map_location="cpu", weights_only=False)["callbacks"]
    sizes: dict[str, int] = next(state["offsets"] for name, state in callbacks.items() if "Checkpoints" in name)
    return sizes

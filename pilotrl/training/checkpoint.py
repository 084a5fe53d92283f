"""What an interrupted run goes on from: Lightning's checkpoint, all random states, and the sizes of the run's files."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from pilotrl.models.policy import learned
from pilotrl.rollout import stopwatch
from pilotrl.store.reading import reason, unreadable
from pilotrl.store.run_folder import LINES, RunFolder

REMEDY = "delete it, and the run begins anew from its first step"


class Checkpoints(Callback):
    """Saves every `every` steps and at the last, and keeps the newest file. Comes after the callback that writes a step's lines.

    A file appears whole or not at all, so a run killed anywhere finds the last whole one.
    """

    def __init__(self, folder: RunFolder, every: int, steps: int, rates: dict[str, float] | None = None) -> None:
        """`rates`, by task, belong to the run too: kept here, and filled where it goes on."""
        self.folder, self.every, self.steps, self.rates = folder, every, steps, {} if rates is None else rates

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Signals stay with whoever has them: Lightning's handler of SIGTERM would speak to other ranks, in the middle of
        anything, and end the process with code 0."""
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    @stopwatch.phase("save")
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
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
        """Lists, numbers and tensors alone: a checkpoint is read without unpickling anything else."""
        name, keys, *others = np.random.get_state()
        return {
            "offsets": self.folder.offsets(),
            "python": random.getstate(),
            "numpy": (str(name), [int(key) for key in keys], *map(float, others)),
            "torch": torch.get_rng_state(),
            "rates": dict(self.rates),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        try:
            name, keys, position, has_gauss, gauss = state_dict["numpy"]
            random.setstate(state_dict["python"])
            np.random.set_state((name, keys, int(position), int(has_gauss), gauss))
            torch.set_rng_state(state_dict["torch"])
            self.rates.update({str(task): float(rate) for task, rate in state_dict.get("rates", {}).items()})
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise unreadable(self.folder.checkpoints, "holds no random states", REMEDY) from error


def latest(folder: RunFolder) -> Path | None:
    """The newest whole checkpoint of a run folder."""
    return max(folder.checkpoints.glob("step-*.ckpt"), default=None)


def offsets(path: Path) -> dict[str, int]:
    """Sizes of the run's files when the checkpoint was written."""
    callbacks = read(path).get("callbacks", {}).items()
    sizes: dict[str, int] = next((state.get("offsets", {}) for name, state in callbacks if "Checkpoints" in name), {})
    if {*sizes} != {*LINES} or not all(isinstance(size, int) and size >= 0 for size in sizes.values()):
        raise unreadable(path, "does not say how long metrics.jsonl and episodes.jsonl were", REMEDY)
    return sizes


def check_weights(path: Path, module: LightningModule) -> None:
    """Raises UserError where a checkpoint is not one of this module's weights."""
    own, kept = module.state_dict(), _loaded(path).get("state_dict", {})
    for name, tensor in kept.items():
        if name not in own or own[name].shape != tensor.shape:
            raise unreadable(path, f"is of another model ({name} differs)", REMEDY)
    if missing := learned(module).keys() - kept.keys():
        raise unreadable(path, f"lacks {sorted(missing)[0]}", REMEDY)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint, which is tensors, numbers and lists: of anything else nothing is executed. Raises UserError for a file that
    is not whole, or holds anything else."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as parts:
            if (broken := parts.testzip()) is not None:  # torch itself does not look at the checksums
                raise ValueError(f"the checksum of {broken} differs")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise unreadable(path, reason(error), REMEDY) from error
    return _loaded(path)


def _loaded(path: Path) -> dict[str, Any]:
    try:
        held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        why = "holds more than tensors and numbers: it is of an older version of PilotRL, or no checkpoint, and not opened"
        raise unreadable(path, why, REMEDY) from error
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise unreadable(path, reason(error), REMEDY) from error
    if not isinstance(held, dict):
        raise unreadable(path, "is no checkpoint", REMEDY)
    return held

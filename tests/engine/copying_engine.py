"""An engine that plays with a copy of the weights, as vLLM does: the local engine on a second model."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import ClassVar

from pilotrl.engine.local import LocalEngine
from pilotrl.models import sharding
from pilotrl.models.policy import Policy
from pilotrl.types import Reply, Request


class CopyingEngine:
    """All calls of `take` are collective where the weights are in shards."""

    copies: ClassVar[bool] = True

    def __init__(self, *, model: Policy, end: int, folder: Path, rank: int, slots: int) -> None:
        self.policy, self.copy, self.slots = model, deepcopy(model.model), slots
        self.inner = LocalEngine(model=self.copy, end=end, slots=slots)

    def take(self, version: int) -> None:
        self.copy.load_state_dict(sharding.gathered(self.policy.model, keep=True))

    def submit(self, request: Request) -> None:
        self.inner.submit(request)

    def step(self) -> list[Reply]:
        return self.inner.step()

    def release(self, session: tuple[int, int]) -> None:
        self.inner.release(session)

    def rest(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

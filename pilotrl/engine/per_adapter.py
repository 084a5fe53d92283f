"""One engine for each LoRA adapter, behind one engine: a forward pass and a key-value cache belong to one adapter."""

from __future__ import annotations

from collections.abc import Mapping

from pilotrl.engine import Engine
from pilotrl.types import Reply, Request


class PerAdapterEngine:
    """Engines by adapter. A session has a cache in each, so each adapter prefills what the other one generated."""

    def __init__(self, engines: Mapping[str | None, Engine]) -> None:
        self.engines = engines
        self.slots = min(engine.slots for engine in engines.values())

    def settle(self) -> None:
        """Adapters stay as they are: each engine's forward passes switch between them."""

    def submit(self, request: Request) -> None:
        self.engines[request.adapter].submit(request)

    def step(self) -> list[Reply]:
        return [reply for engine in self.engines.values() for reply in engine.step()]

    def release(self, session: tuple[int, int]) -> None:
        for engine in self.engines.values():
            engine.release(session)

    def take(self, version: int) -> None:
        for engine in self.engines.values():
            engine.take(version)

    def rest(self) -> None:
        for engine in self.engines.values():
            engine.rest()

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()

"""Who generates: `submit` requests, `step` until they are finished, in whatever order they finish.

May import `endpoint`, `models` and `prompts`. Never here: environments, plans, gradients."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pilotrl.types import Reply, Request


class Engine(Protocol):
    """What the rollout needs of a generator of replies."""

    slots: int
    """Episodes worth playing side by side."""

    def submit(self, request: Request) -> None: ...

    def step(self) -> list[Reply]:
        """Do some work; return what it finished. Must finish every submitted request eventually."""
        ...

    def release(self, session: tuple[int, int]) -> None:
        """The session's episode is over."""
        ...


@runtime_checkable
class ForkableEngine(Engine, Protocol):
    """An engine that forks of this process may go on with, each for itself: episodes are then run by several processes."""

    def settle(self) -> None:
        """In a fork: prepare for a life without learning."""
        ...


@runtime_checkable
class RemoteEngine(Engine, Protocol):
    """An engine that asks endpoints."""

    def spent(self) -> dict[str, float]:
        """What it asked, and what that cost."""
        ...

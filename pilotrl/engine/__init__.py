"""Inference engines, which generate replies: `take` the weights, `submit` requests, `step` until they finish, in any order.

May import `endpoint`, `models` and `prompts`. Never here: environments, plans, gradients."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from pilotrl.types import Reply, Request


class Engine(Protocol):
    """The protocol that the rollout needs of an inference engine."""

    slots: int
    """Episodes to run concurrently."""

    def submit(self, request: Request) -> None: ...

    def step(self) -> list[Reply]:
        """Do some work; return the replies that it finished. Must finish every submitted request eventually."""
        ...

    def release(self, session: tuple[int, int]) -> None:
        """The session's episode is over: drop its requests and its cache."""
        ...

    def take(self, version: int) -> None:
        """From here on the weights as they are now play, `version` of them, and nothing that older ones computed is met again."""
        ...

    def rest(self) -> None:
        """A batch is played: the device is wanted for learning."""
        ...

    def close(self) -> None:
        """Nothing more will be asked: end its processes, remove its files. May be called twice."""
        ...


class CopyingEngine(Engine, Protocol):
    """An engine that is not the learner: it plays with a copy of the weights, which `take` renews, for all adapters at once. Its
    class is made with `model`, here the whole policy, `end`, the run's `folder` and this process's `rank`."""

    copies: ClassVar[bool] = True


@runtime_checkable
class ForkableEngine(Engine, Protocol):
    """An engine that forks of this process may go on with, each for itself: episodes are then run by several processes."""

    def settle(self) -> None:
        """In a fork: prepare for a life without learning."""
        ...


@runtime_checkable
class RemoteEngine(Engine, Protocol):
    """An engine that sends its requests to an API."""

    def spent(self) -> dict[str, float]:
        """Counts of its requests and tokens, and their cost."""
        ...

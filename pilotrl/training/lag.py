"""A lag of one step (`train.lag=1`): step k is played by the weights of version k - 1, and learned from by those of version k.

So it is where a step is played while the one before is learned from (one-step off-policy; prime-rl always trains so). Which
weights play follows from the number of the step alone, never from the clock: the same command gives the same run, and one that is
interrupted goes on exactly. The ratio of a loss is to what was recorded when sampling, so it corrects by itself.
Degenerate case: without a lag nothing is kept, and nothing wrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

Function = TypeVar("Function", bound=Callable[..., Any])


class Lagged(nn.Module):
    """What a model learns as it was a step ago: buffers, so that a checkpoint has them, and they follow the model to its device.

    They begin as the model is; `keep` comes before the first update of each step.
    """

    def __init__(self, model: nn.Module, lag: int) -> None:
        super().__init__()
        learned = [(name, parameter) for name, parameter in model.named_parameters() if lag and parameter.requires_grad]
        self.learned = {name.replace(".", "/"): parameter for name, parameter in learned}
        for name, parameter in self.learned.items():
            self.register_buffer(name, parameter.detach().clone())

    def wrapped(self, function: Function) -> Function:
        """The function, while which runs the model has the weights of a step ago; forks of the process keep them."""
        return self._exchanged()(function) if self.learned else function

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self.learned.items():
            held = self.get_buffer(name)
            parameter.data, held.data = held.data, parameter.data

    def keep(self) -> None:
        """The present weights, which are about to be those of a step ago."""
        for name, parameter in self.learned.items():
            self.get_buffer(name).copy_(parameter.detach())

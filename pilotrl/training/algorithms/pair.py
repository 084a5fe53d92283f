"""Puts a credit and a loss together, chosen apart: `algorithm/credit=gigpo algorithm/loss=gspo`.

    class: Pair.of(credit=Gigpo, loss=Gspo)      # a dataclass with the options of both
    file:  defaults: [credit: gigpo, loss: gspo, _self_]
           _target_: pilotrl.training.algorithms.pair.Pair

The options of both stand side by side under `algorithm`, and `algorithm.credit` and `algorithm.loss` are the classes. Between
them goes what any loss with a ratio may add, `Regularized`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pilotrl.training.algorithms import Algorithm
from pilotrl.training.algorithms.losses import RatioLoss, Regularized
from pilotrl.types import UserError


class Pair(Algorithm):
    """What `_target_` names where the keys `credit` and `loss` name the classes; only `of` makes something of it."""

    PARTS: ClassVar[tuple[str, ...]] = ("credit", "loss")

    @staticmethod
    def of(credit: type[Algorithm], loss: type[Algorithm]) -> type[Algorithm]:
        """A class with the advantages of one and the loss of the other; a credit with a value head adds to the loss.

        Raises UserError for two that make no sense together.
        """
        if credit.demonstrations and loss.ratio:
            why = "takes the ratio to probabilities at sampling, which demonstrations do not have"
            raise UserError(f"loss={loss.__module__}.{loss.__qualname__}: {why}; choose algorithm/loss=reinforce")
        parts = (credit, Regularized, loss) if issubclass(loss, RatioLoss) else (credit, loss)
        return dataclass(frozen=True)(type(f"{credit.__name__}{loss.__name__}", parts, {}))

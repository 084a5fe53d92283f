"""Algorithms: how rewards become advantages, and advantages a loss. Pure functions of tensors, one file each.

    algorithm = load("grpo", clip_low=0.2, ...)
    credit = algorithm.advantages(rewards, turn_rewards, group, success, terminated, call_episode, steered, values)
    loss, stats = algorithm.loss(logprobs, old_logprobs, credit.advantages[call], values, returns, tokens, calls)

Shapes, here and in the files: E episodes, C calls (sorted by episode, within an episode by time), N trained tokens and
M calls of one micro-batch. What loss and stats are divided by is counted by the caller over the whole minibatch of an
optimizer update and all ranks, so that the parts of micro-batches and ranks simply add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from pilotrl.types import UserError


class Credit(NamedTuple):
    """What each call of a batch of episodes did for the reward."""

    advantages: Tensor
    """[C] float64; exactly 0 where the episode's reward is missing (if rewards are read at all)."""
    returns: Tensor
    """[C] float64, what the value head should have said; NaN where the reward is missing, and without a critic."""
    stats: Mapping[str, float]
    """To log, by flat name."""


class Algorithm(Protocol):
    """One training step serves every algorithm through these two methods."""

    @property
    def critic(self) -> bool:
        """Whether it needs values; without, `values` and `returns` are not read and may be empty."""

    def advantages(
        self,
        rewards: Tensor,
        process_rewards: Tensor,
        group: Tensor,
        success: Tensor,
        terminated: Tensor,
        call_episode: Tensor,
        followed: Tensor,
        values: Tensor,
    ) -> Credit:
        """Credit for every call, from whole groups.

        Args:
            rewards: [E] float64, NaN where missing (broken or unscored): such an episode is left out.
            turn_rewards: [2, C] float64 in [0, 1], what each call earned by itself, a row for planners' calls and one for
                executors' (two scales, never compared), NaN where nothing is known.
            group: [E] integer, equal for episodes of one group, in any order.
            success: [E] bool, the environment calls the episode solved (for the stats alone).
            terminated: [E] bool, the task itself ended (solved or failed); otherwise a budget cut the episode.
            call_episode: [C] integer, the episode of each call, never decreasing.
            steered: [C] bool, False for a candidate that its episode did not follow and owes nothing to.
            values: [C] of the value head before each call.
        """

    def loss(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        values: Tensor,
        returns: Tensor,
        tokens: float,
        calls: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's part of the loss, and of the means to log.

        Args:
            logprobs: [N] with gradient, under the temperature of sampling.
            old_logprobs: [N] as recorded when sampling.
            advantages: [N] of the call that each token belongs to.
            values: [M] with gradient.
            returns: [M], NaN where a call is left out.
            tokens: trained tokens of the whole minibatch, all ranks.
            calls: calls with a finite return of the whole minibatch, all ranks.

        Returns:
            The loss, and detached scalars by flat name; their sums over micro-batches and ranks are the minibatch's.
        """


def load(name: str, **options: float | bool | None) -> Algorithm:
    """The algorithm of that name. An option it does not read has to be None, and one it reads has to be there.

    Raises:
        UserError: no such algorithm; an option set that it does not read, or missing that it does.
    """
    from pilotrl.training.algorithms import grpo, ppo, sft  # they need the classes above

    known: dict[str, type[Any]] = {"grpo": grpo.Grpo, "ppo": ppo.Ppo, "sft": sft.Sft}
    if name not in known:
        raise UserError(f"algorithm.name={name}: there is no such algorithm; choose one of {', '.join(known)}")
    reads = {field.name for field in fields(known[name])}
    for key, value in options.items():
        if key not in reads and value is not None:
            raise UserError(f"algorithm.{key}={value}: {name} does not read it; leave it null")
    for key in sorted(reads - {"dual_clip"}):
        if options.get(key) is None:
            raise UserError(f"algorithm.{key}=null: {name} needs a number; set it")
    algorithm: Algorithm = known[name](**{key: options.get(key) for key in reads})
    return algorithm

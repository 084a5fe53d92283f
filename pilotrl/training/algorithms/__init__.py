"""Algorithms: how rewards become advantages (`credit/`), and advantages a loss (`losses/`). Functions of tensors, one file each.

    algorithm = build({"_target_": "pilotrl.training.algorithms.grpo.Grpo", "name": "grpo", "clip_low": 0.2, ...})
    credit = algorithm.advantages(played)        # of all episodes of a step
    loss = algorithm.loss(scored)                # of one micro-batch

What a method takes and returns is a frozen record, so that a new field breaks nobody. Shapes, here and in the files: E episodes,
C calls (sorted by episode, within an episode by time), N trained tokens and M calls of one micro-batch. A micro-batch holds calls
whole. What losses and stats are divided by is counted beforehand over the whole minibatch of an optimizer update, so that the
parts of micro-batches simply add up, on whichever rank each is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from pilotrl.config.instantiate import make
from pilotrl.types import UserError


@dataclass(frozen=True)
class Played:
    """The scored episodes of a step: whole groups."""

    rewards: Tensor
    """[E] float64, NaN where missing (broken or unscored): such an episode is left out of every statistic."""
    group: Tensor
    """[E] integer, equal for episodes of one group, which begin in the same state; in any order."""
    success: Tensor
    """[E] bool, the environment calls the episode solved."""
    terminated: Tensor
    """[E] bool, the environment ended the episode, by its limit of turns too; otherwise it had no room left in its context."""
    episode: Tensor
    """[C] integer, index of the episode of each call, never decreasing."""
    turn: Tensor
    """[C] integer from 1, at which the call was made; 0 for the environment's words, where a stage learns those too."""
    role: Tensor
    """[C] integer: 0 planner, 1 executor, -1 for the environment's words."""
    observation: Tensor
    """[C] integer, equal where the last observation that the call saw is the same text."""
    plan: Tensor
    """[C] integer, equal where the plan that the call worked under is the same (a planner's: the plan it was to rewrite)."""
    followed: Tensor
    """[C] bool, False for a candidate plan that its episode did not follow and owes nothing to."""
    process_rewards: Tensor
    """[2, C] float64 in [0, 1], what each call earned by itself (the judge's word on this plan, this action): a row for
    planners' calls and one for executors', two scales that are never compared; NaN where nothing is known."""
    step_rewards: Tensor
    """[C] float64, the environment's own reward of the turn's action, as its `step` gave it; 0 where the turn did not come to
    one."""
    values: Tensor
    """[C] of the value head before each call; empty where the algorithm has no critic."""


@dataclass(frozen=True)
class Credit:
    """What each call did for the reward."""

    advantages: Tensor
    """[C] float64; exactly 0 where the episode's reward is missing (if rewards are read at all)."""
    returns: Tensor | None = None
    """[C] float64, what the value head should have said, NaN where nothing is known; None without a critic."""
    stats: Mapping[str, float] = field(default_factory=dict)
    """To log as train/NAME: means over the groups."""


@dataclass(frozen=True)
class Scored:
    """The trained tokens of a micro-batch under the present weights."""

    logprobs: Tensor
    """[N] with gradient, under the temperature of sampling."""
    old_logprobs: Tensor
    """[N] as recorded when sampling."""
    reference: Tensor
    """[N] under the weights that adapters sit on, without gradient; empty where the algorithm has no `beta` above 0."""
    entropy: Tensor
    """[N] of the distributions, in nats; with gradient where the algorithm has an `entropy_coef` above 0."""
    advantages: Tensor
    """[N] of the call that each token belongs to, times the weight of its tokens (1 for what a trained role said)."""
    token_call: Tensor
    """[N] integer, which of the M calls each token belongs to; all tokens of a call are here."""
    call: Tensor
    """[M] integer, which of the C calls of `played` each one is."""
    values: Tensor
    """[M] with gradient, of the value head; empty where the algorithm has no critic."""
    returns: Tensor
    """[M], NaN where a call is left out."""
    played: Played
    """All calls of the step: `played.turn[scored.call]`, `played.observation[scored.call[scored.token_call]]`, ..."""
    tokens: float
    """Trained tokens of the whole minibatch: what a mean over tokens is divided by."""
    calls: float
    """Trained calls of the whole minibatch: what a mean over calls is divided by."""
    targets: float
    """Calls with a finite return of the whole minibatch."""


@dataclass(frozen=True)
class Loss:
    """A micro-batch's part of the loss, and of the means to log."""

    value: Tensor
    """Scalar with gradient; the parts of micro-batches add up to the minibatch's."""
    stats: Mapping[str, Tensor | float] = field(default_factory=dict)
    """Detached scalars to log as train/NAME, which add up likewise."""


class Algorithm(Protocol):
    """One training step serves every algorithm through two methods. A class of one's own derives from this one, or from another
    algorithm; its dataclass fields are its options, the keys of `conf/algorithm/NAME.yaml`. A class with one of the methods is a
    half, a credit or a loss; `pair.py` puts two together."""

    critic: ClassVar[bool] = False
    """Whether it needs a value head; then it has a field `value_lr`, the head's learning rate."""
    demonstrations: ClassVar[bool] = False
    """Whether it learns from an expert's demonstrations, in place of the policy's own episodes."""
    smallest_group: ClassVar[int] = 1
    """Episodes on a task that it needs to compare."""
    compares_plans: ClassVar[bool] = False
    """Whether its groups need episodes with plans of the policy, and episodes without."""
    ratio: ClassVar[bool] = True
    """Whether its loss takes the ratio to the probabilities at sampling: demonstrations have none, and without it only the first
    update of a step is of the weights that played, and none where they lag."""

    def __post_init__(self) -> None:
        """Checks options; a half of an algorithm calls that of `super()` too."""
        check_ranges(self)

    @property
    def credits_candidates(self) -> bool:
        """Whether a candidate plan that its episode did not follow may get an advantage."""
        return False

    def advantages(self, played: Played) -> Credit:
        """Credit for every call, from whole groups."""
        ...

    def loss(self, scored: Scored) -> Loss:
        """This micro-batch's part of the loss."""
        ...


def build(settings: Mapping[str, Any]) -> Algorithm:
    """The algorithm of a node of the configuration: `_target_`, `name` and the options of that class.

    Raises UserError for options that it refuses, by the key's own name.
    """
    algorithm: Algorithm = make({key: value for key, value in settings.items() if key != "name"})
    return algorithm


def check(algorithm: Algorithm) -> None:
    """Ask an algorithm for credit and loss of two made-up episodes, so that what does not fit is known before a run.

    Raises UserError for what is no `Credit` with a finite number a call, or no `Loss` that is a scalar.
    """
    calls = torch.arange(3)
    told = Played(
        rewards=torch.tensor([1.0, 0.0], dtype=torch.float64),
        group=torch.zeros(2, dtype=torch.long),
        success=torch.tensor([True, False]),
        terminated=torch.tensor([True, True]),
        episode=torch.tensor([0, 0, 1]),
        turn=torch.tensor([1, 2, 1]),
        role=torch.ones(3, dtype=torch.long),
        observation=torch.tensor([0, 1, 0]),
        plan=torch.tensor([0, 0, 1]),
        followed=torch.ones(3, dtype=torch.bool),
        process_rewards=torch.full((2, 3), torch.nan, dtype=torch.float64),
        step_rewards=torch.zeros(3, dtype=torch.float64),
        values=torch.zeros(3) if algorithm.critic else torch.empty(0),
    )
    credit: Any = algorithm.advantages(told)
    if not (isinstance(credit, Credit) and credit.advantages.shape == (3,) and credit.advantages.isfinite().all()):
        raise UserError(
            f"advantages: gave {_brief(credit)} of three calls; must be a Credit with a finite number a call"
        )
    logprobs = torch.full((3,), -1.0, requires_grad=True)
    returns = torch.full((3,), torch.nan) if credit.returns is None else credit.returns
    shown = Scored(
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        reference=logprobs.detach(),
        entropy=torch.zeros(3),
        advantages=credit.advantages,
        token_call=calls,
        call=calls,
        values=told.values,
        returns=returns,
        played=told,
        tokens=3.0,
        calls=3.0,
        targets=3.0,
    )
    loss: Any = algorithm.loss(shown)
    if not (isinstance(loss, Loss) and loss.value.shape == () and loss.value.requires_grad):
        raise UserError(f"loss: gave {_brief(loss)}; must be a Loss whose value is a scalar with gradient")


def _brief(thing: Any) -> str:
    return " ".join(repr(thing).split())[:60]


def check_ranges(algorithm: Any, **ranges: tuple[float, float]) -> None:
    """For `__post_init__`: numbers of an algorithm lie between two bounds, both included. None is not looked at.

    Raises UserError for the first that does not.
    """
    for name, (low, high) in ranges.items():
        value = getattr(algorithm, name)
        if value is not None and not low <= value <= high:
            bounds = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            raise UserError(f"{name}={value}: must be {bounds}")

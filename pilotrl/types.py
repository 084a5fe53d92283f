"""The records everything else is about. No torch, no behaviour.

The words: a *call* is one generation by the language model, a *turn* is (re)plan, act,
observe, an *episode* is all turns on one task, a *group* is the episodes played on the same task from the same state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Role = Literal["planner", "executor"]
Outcome = Literal["solved", "failed", "truncated", "broken"]
Plan = tuple[str, ...]
"""Step i (counted from 1) is for action i; after action t the steps 1..t are frozen. Empty: a past turn had none."""


class UserError(Exception):
    """What a user got wrong, in one line that names the key, the value and the remedy. Ends with exit code 2."""


class WorldError(Exception):
    """The world failed (not the player): after fresh ones the episode is `broken`. Or the judge: a verdict is missing."""


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction in one environment; playing it twice starts from the same state."""

    env: str
    id: str
    split: str
    seed: int


class PlanScores(NamedTuple):
    """What a judge gives a plan: 1 (useless) to 5 (nothing to be said against it) each."""

    correctness: int
    """It achieves what the task requires from here on."""
    executability: int
    """Each step is one thing that can be done."""
    standardization: int
    """It is written as plans are: a short line a step, in words of its own."""

    @property
    def share(self) -> float:
        """Their mean as a number in [0, 1]."""
        return (sum(self) / len(self) - 1) / 4


@dataclass(slots=True)
class WrittenPlan:
    """The plan that a planner's call wrote; kept where plans are graded."""

    steps: Plan | None
    """From the turn of the call on; None: the reply is no plan."""
    reference: Plan
    """What the environment's own expert would write from that very state; empty where there is none."""
    scores: PlanScores | None = None
    """The judge's; None without a verdict."""


@dataclass(slots=True)
class Call:
    """One generation by the language model: the unit of storage. Ids are kept as sampled and never tokenized again."""

    role: Role
    prompt: list[int]
    ids: list[int]
    logprobs: list[float]
    """Of each of `ids`, natural logarithm, under the sampling temperature, before any top-p cut."""
    stop: Literal["end", "length"]
    """`end`: the model closed its reply (the last id is that token). `length`: the token limit cut it."""
    plan: Plan
    """The plan it worked under, at turn t: P(t-1) of the planner, who writes P(t), and P(t) of the executor."""
    version: int = 0
    """Of the weights: how many training steps they had seen."""
    adapter: str | None = None
    turn: int = 0
    selected: bool = True
    """False for a candidate plan that another one was preferred to: it never entered the context."""
    written: WrittenPlan | None = None
    """What a planner's call wrote, where plans are graded."""
    process_reward: float | None = None
    """What this one call did, in [0, 1]: adherence of its action, quality of its plan; None where nobody said or it does
    not count."""
    advantage: float | None = None
    """How much better than expected it turned out; None where nothing is learned from it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked for: one reply to one prompt."""

    session: tuple[int, int]
    """(group, sample) of the episode: prompts of one session mostly continue each other, so their keys and values are kept."""
    prompt: list[int]
    max_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float
    seed: int
    """Belongs to the call; the sampled ids do not depend on what else is in the batch (but for rounding)."""
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine answers."""

    session: tuple[int, int]
    ids: list[int]
    logprobs: list[float]
    stop: Literal["end", "length"]


@dataclass(slots=True)
class Turn:
    """(Re)plan, act, observe. `plan` is the plan in force when acting; its step number t is `plan[t - 1]`."""

    plan: Plan
    reply: str
    action: str
    observation: str
    """The environment's answer to the action."""
    valid: bool
    """The environment understood the action."""
    well_formed: bool
    """The replies of this turn had the structure that the prompt asks for."""
    score: float
    adherence: int | None = None
    """The judge's verdict: 0 ignores the step, 1 in part, 2 in full; None where there is no step or no verdict."""
    reward: float = 0.0
    """The environment's own, as its `step` gave it for the action."""


@dataclass(slots=True)
class Episode:
    """All turns on one task."""

    task: Task
    group: int
    sample: int
    observation: str
    """The environment's first text."""
    par: int | None = None
    """Turns that the environment calls efficient for this task, or None where it cannot say."""
    turns: list[Turn] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    tokens: int = 0
    """Sampled by the model, both roles."""
    outcome: Outcome = "broken"
    score: float = 0.0
    terms: dict[str, float | None] = field(default_factory=dict)
    """Reward terms in [0, 1]; None is a missing verdict."""
    reward: float | None = None
    """Weighted mean of the terms there are; None: left out of baselines."""

"""The shared record types: task, plan, call, turn, episode, and the exceptions. No torch, no behaviour.

A *call* is one generation by the language model, a *turn* is (re)plan, act,
observe, an *episode* is all turns on one task, a *group* is the episodes played on the same task from the same state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Role = Literal["planner", "executor"]
Outcome = Literal["solved", "failed", "truncated", "broken"]
Ending = Literal["environment", "turn_limit", "context", "broken"]
"""Why an episode ended: the environment's own end, its limit of turns, no room left in the context, or a failure of the world."""
Plan = tuple[str, ...]
"""Numbered steps, from 1. One action each: step i is for action i, and after action t the steps 1..t are frozen. Or, with
`agent.steps=subgoal`, each as long as it takes: those before the step in force are frozen. Empty: a past turn had none."""


class UserError(Exception):
    """Invalid input, in one line that names the key, the value and the remedy. The command ends with exit code 2."""


class NotHere(UserError):
    """Nothing is wrong with what was typed, but this machine lacks what it takes; another may have it."""


class RunFailed(Exception):
    """A run that cannot come to a result, in one line: weights that are no numbers, or a world that is not there. Nothing that
    was typed is wrong by itself, so the command ends with exit code 1."""


class WorldError(Exception):
    """The environment or the model behind an API failed, not the policy: the episode is run again, and in the end `broken`.

    From a judge it means that a verdict is missing."""


class NotUnderstood(Exception):
    """A reply, or a call of a tool, cannot be read. The line says why, and is told to the model."""


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction in one environment; every episode on it starts from the same state."""

    env: str
    id: str
    split: str
    seed: int


class PlanScores(NamedTuple):
    """A judge's scores of a plan, each from 1 (useless) to 5 (flawless)."""

    correctness: int
    """It achieves what the task requires from here on."""
    executability: int
    """Each step can be done with one action."""
    standardization: int
    """It is written as plans should be: a short line a step, in words of its own, not an action string."""

    @property
    def share(self) -> float:
        """Their mean as a number in [0, 1]."""
        return (sum(self) / len(self) - 1) / 4


@dataclass(slots=True)
class WrittenPlan:
    """The plan that a planner's call wrote; recorded if plans are graded."""

    steps: Plan | None
    """Those that were left at the call; None if the reply cannot be parsed as a plan."""
    reference: Plan
    """The plan of the environment's own expert for the same state; empty without an expert."""
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
    """The current plan when it was made, at turn t: P(t-1) for the planner, which writes P(t); P(t) for the executor."""
    version: int = 0
    """Of the weights: the number of training steps before this call."""
    adapter: str | None = None
    turn: int = 0
    step: int = 0
    """Number of the step in force in `plan`, where steps last; 0 where each is for one action."""
    selected: bool = True
    """False for a candidate plan that was not chosen: it never entered the context."""
    written: WrittenPlan | None = None
    """The plan that a planner's call wrote, if plans are graded."""
    process_reward: float | None = None
    """The reward of this one call, in [0, 1]: adherence of its action, or quality of its plan; None without a verdict, or
    if it does not count."""
    advantage: float | None = None
    """Its advantage; None if it is not trained on."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an engine: one reply to one prompt."""

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
    """An engine's reply to a request: sampled token ids, their log-probabilities, and why it stopped."""

    session: tuple[int, int]
    ids: list[int]
    logprobs: list[float]
    stop: Literal["end", "length"]


@dataclass(slots=True)
class Turn:
    """(Re)plan, act, observe. `plan` is the current plan at the action; its step in force is the first of `remaining`."""

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
    meant: str = ""
    """The expert's exact step, where it says more than the plan's: what a loose step means, which judges grade against; or what
    the expert would do now under a step that lasts."""
    step: int = 0
    """Number of the step in force, where steps last; 0 where each is for one action."""
    unread: str = ""
    """Why the executor's reply held no action; empty if it did."""
    results: tuple[str, ...] = ()
    """What each call of the environment's tools gave, in order; empty where there are no tools, or no call could be read."""

    def remaining(self, turn: int) -> Plan:
        """The step in force and those after it, at turn number `turn` of an episode; empty where the plan has none for it."""
        return self.plan[(self.step or turn) - 1 :]


@dataclass(slots=True)
class Episode:
    """All turns on one task."""

    task: Task
    group: int
    sample: int
    observation: str
    """The environment's first text."""
    par: int | None = None
    """Turns that an efficient agent needs for this task, by the environment; None if it does not say."""
    turns: list[Turn] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    tokens: int = 0
    """Sampled by the model, both roles."""
    outcome: Outcome = "broken"
    ended_by: Ending | None = "broken"
    """None in older records, which do not say."""
    seconds: float = field(default=0.0, compare=False)
    """From its first request to its end, other episodes beside it included; by the clock, so no record has it."""
    score: float = 0.0
    terms: dict[str, float | None] = field(default_factory=dict)
    """Reward terms in [0, 1]; None is a missing verdict."""
    reward: float | None = None
    """Weighted mean of the terms that are not None; None: the episode is left out of baselines."""

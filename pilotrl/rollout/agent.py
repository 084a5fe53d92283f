"""The agent of an episode: its paradigm and decoding, the seeds of its calls, and at which turns it plans."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b
from statistics import fmean
from typing import Any

from pilotrl.engine import Engine
from pilotrl.envs import Env
from pilotrl.prompts.chat import Format
from pilotrl.teacher import EXACT, Teacher
from pilotrl.types import Call, Episode, Plan, Request, Role, Task

EVERY = "every "
"""`every 3`: a plan is written before the first action, the fourth, ..."""

Key = tuple[int | str, ...]
PendingPlan = Future[Plan | None]
EpisodeGenerator = Generator[Request | PendingPlan | Callable[[], Any], Any, Episode]
"""Yields a request, and is sent the reply; or a teacher's plan or a call of an environment, and is sent the future, done."""
OnDone = Callable[[Episode], None]


@dataclass(frozen=True)
class AgentSpec:
    """The agent that runs an episode: its paradigm (such as AdaPlan or ReAct), prompts, token limits and decoding."""

    chat: Format
    prompts: dict[str, str]
    plans: str
    thinks: bool
    shows: str
    context: str
    window: int | None
    replies: str
    """The form of the executor's replies: `line`, `tagged` or `tool_call`."""
    teacher_plans: bool
    """The teacher writes the plans."""
    demonstrates: bool
    """The expert writes everything, and what it writes is recorded as calls (demonstrations)."""
    candidates: int
    """Plans that the policy writes for every one that it follows."""
    graded: bool
    """The policy's plans are kept for the judge, each beside what the expert would write there."""
    detours: float
    """Share of an expert's actions, where it knows of a detour, that are one."""
    loose: float
    """Share of demonstrations whose plans are worded loosely."""
    own_actions: float
    """Share of a demonstration's actions that are the policy's own, beside the expert's that is recorded."""
    max_length: int
    max_tokens: dict[Role, int]
    adapters: dict[Role, str | None]
    """The adapter that generates for each role; None: the model as it is."""
    temperature: float
    top_p: float
    version: int
    max_turns: int | None = None
    """Turns after which an episode ends, if the environment has not ended it."""
    lasts: bool = False
    """A step of a plan lasts until a later plan leaves it out; else each is for one action."""
    teacher: Teacher = EXACT
    """Writes the plans where `teacher_plans` or `demonstrates` is set."""


@dataclass(frozen=True)
class EpisodeSpec:
    """One episode to be run: its task, its place in the batch, and the agent."""

    task: Task
    group: int
    sample: int
    agent: AgentSpec


RunEpisodes = Callable[[Sequence[EpisodeSpec], Callable[[], Env], Engine, Key, OnDone], list[Episode]]
"""The signature of `run_episodes`, ..."""
Asked = tuple[Sequence[EpisodeSpec], Callable[[], Env], Engine, Key, OnDone]
"""... and what it is given."""


def seed_of(*key: int | str) -> int:
    """A 63-bit seed, hashed from the key of a call; the same on every machine."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def due(plans: str, turn: int) -> bool:
    """Whether the planner is called at a turn, counted from 1. `plans` is what agent.plans may be."""
    if plans.startswith(EVERY):
        return (turn - 1) % int(plans.removeprefix(EVERY)) == 0
    return plans in ("always", "asked") or (plans == "once" and turn == 1)


def lasting(steps: str, plans: str) -> bool:
    """Whether an agent's steps last: with `agent.steps=subgoal`, where plans are written again, and so can say what is done."""
    return steps == "subgoal" and plans not in ("once", "never")


def likelihood(call: Call) -> float:
    """Mean log-probability a token under the policy that sampled it; minus infinity for a call without tokens."""
    return fmean(call.logprobs) if call.logprobs else float("-inf")

"""The teacher that is an API model: its prompt holds the policy's observations, actions and current plan, nothing else."""

from __future__ import annotations

import re
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from pilotrl import prompts
from pilotrl.endpoint import Endpoint, Question
from pilotrl.endpoint.address import Address
from pilotrl.envs import Env
from pilotrl.prompts.parsing import number, parse_lasting, parse_plan
from pilotrl.types import Episode, Plan

NUMBERED = re.compile(r"\s*\d+\.")


@dataclass(frozen=True, kw_only=True)
class OpenAiTeacher(Address):
    """Writes plans by prompting an API model. Equal histories get equal plans.

    Raises UserError for an invalid URL, and for an API key that is not set.
    """

    def __post_init__(self) -> None:
        self.endpoints()

    def endpoints(self) -> list[Endpoint]:
        """The endpoint it uses."""
        return [Endpoint.shared(self)]

    def plan(self, env: Env, episode: Episode, plan: Plan, sample: int = 0) -> Future[Plan | None]:
        """A future of steps; `sample` numbers the plans for one state, if several are wanted."""
        start = len(episode.turns) + 1
        question = Question((("user", prompt(episode, plan)),), sample=sample)
        return Endpoint.shared(self).ask(question, partial(read_plan, start=start), anew=True)

    def subgoals(self, env: Env, episode: Episode, plan: Plan, current: int) -> Future[Plan | None]:
        """A future of steps that last, from the one in force on, or, if it is done, an empty one and those after it."""
        question = Question((("user", prompt(episode, plan, current)),))
        read = partial(read_lasting, current=current, done=bool(plan[current - 1 :]))
        return Endpoint.shared(self).ask(question, read, anew=True)


def prompt(episode: Episode, plan: Plan, current: int | None = None) -> str:
    """The teacher's prompt: first observation, turns so far, and current plan. `current`: number of the step in force,
    where steps last."""
    turns = [f"Action: {turn.action}\n{turn.observation}" for turn in episode.turns]
    return prompts.load("teacher")["plan_lasting" if current else "plan"].format(
        first=episode.observation,
        turns="\n\n".join(turns) or "(nothing yet)",
        plan=number(plan) or "(none yet)",
        next=current or len(episode.turns) + 1,
    )


def read_plan(text: str, start: int) -> Plan:
    """The numbered lines of a reply, without text around them. Raises ValueError if they are not start, start + 1, ..."""
    if (plan := parse_plan(_numbered(text), start)) is None:
        raise ValueError(f"no lines numbered {start}, {start + 1}, ...")
    return plan


def read_lasting(text: str, current: int, done: bool) -> Plan:
    """As `read_plan`, for steps that last: as `parse_lasting` reads them. Raises ValueError for other numbers."""
    if (plan := parse_lasting(_numbered(text), current, done)) is None:
        raise ValueError(f"no lines numbered from {current} on" + f", or from {current + 1} on" * done)
    return plan


def _numbered(text: str) -> str:
    return "\n".join(line for line in text.rpartition("</think>")[2].splitlines() if NUMBERED.match(line))

"""The judge that is an API model (LLM as a judge), behind an OpenAI-compatible endpoint. See docs/judge.md.

It sees the step, the observation, and the action, with what it did in words where the environment has a `resolve`. It starts
on an episode as soon as that has ended, while others are still running.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pilotrl import prompts
from pilotrl.endpoint import Endpoint, Question
from pilotrl.endpoint.address import Address
from pilotrl.rewards.judge import Item, PlanItem, Resolve
from pilotrl.types import PlanScores

STRICT = ConfigDict(strict=True, hide_input_in_errors=True, json_schema_extra={"additionalProperties": False})

TRIED = 100
"""Opening brackets of a reply, from the last one on, from which a JSON object is looked for."""


class Verdict(BaseModel):
    """The JSON reply about an action: how far it follows a step."""

    model_config = STRICT
    reason: str
    adherence: int = Field(ge=0, le=2)


class Grades(BaseModel):
    """The JSON reply about a plan: three scores."""

    model_config = STRICT
    reason: str
    correctness: int = Field(ge=1, le=5)
    executability: int = Field(ge=1, le=5)
    standardization: int = Field(ge=1, le=5)


Form = TypeVar("Form", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class OpenAiJudge(Address):
    """Grades by prompting an API model.

    Raises UserError for an invalid URL, and for an API key that is not set.
    """

    resolve: Resolve | None
    """Says what an action did, in words; None for an environment whose actions are words."""

    def __post_init__(self) -> None:
        self.endpoints()

    def endpoints(self) -> list[Endpoint]:
        """The endpoint it uses."""
        return [Endpoint.shared(self)]

    def begin(self, items: Sequence[Item], plans: Sequence[PlanItem] = ()) -> None:
        """Start requests for what `grade` and `grade_plans` will be asked."""
        for item in items:
            Endpoint.shared(self).ask(self._question(item), read_verdict)
        for plan in plans:
            Endpoint.shared(self).ask(_plan_question(plan), read_grades)

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        """One verdict an item: 0, 1 or 2, or None without a reply that can be parsed."""
        return Endpoint.shared(self).answers([self._question(item) for item in items], read_verdict)

    def grade_plans(self, items: Sequence[PlanItem]) -> list[PlanScores | None]:
        """Correctness, executability and standardization of each plan, 1 to 5; None without a reply that can be parsed."""
        return Endpoint.shared(self).answers([_plan_question(item) for item in items], read_grades)

    def _question(self, item: Item) -> Question:
        step, observation, action, reply, lasts, _ = Item(*item)
        resolved = self.resolve(observation, action, reply) if self.resolve else ""
        shown = f"{action} ({resolved})" if resolved and resolved != action else action
        prompt = "adherence_lasting" if lasts else "adherence"
        return _question(prompt, Verdict, step=step, observation=observation, action=shown)


def read_verdict(text: str) -> int:
    """0, 1 or 2. Raises ValueError for a reply that gives none."""
    return read(text, Verdict).adherence


def read_grades(text: str) -> PlanScores:
    """Three numbers from 1 to 5. Raises ValueError for a reply that does not give them."""
    grades = read(text, Grades)
    return PlanScores(grades.correctness, grades.executability, grades.standardization)


def read(text: str, form: type[Form]) -> Form:
    """The last JSON object of this form in a reply: models write text before it, and put it into code fences.

    Raises ValueError if there is none.
    """
    problem: ValueError = ValueError("no JSON object")
    for start in [i for i, char in enumerate(text) if char == "{"][: -TRIED - 1 : -1]:
        try:
            found, _ = json.JSONDecoder().raw_decode(text, start)
            return form.model_validate(found)
        except ValueError as error:  # pydantic's are too
            problem = error
        except RecursionError:
            problem = ValueError("JSON without end")
    raise problem


def _plan_question(item: PlanItem) -> Question:
    reference = _numbered(item.reference)
    return _question(
        "plan_lasting" if item.lasts else "plan",
        Grades,
        first=item.first,
        latest=item.latest,
        actions="\n".join(item.actions) or "none",
        plan=_numbered(item.steps) or "(empty)",
        reference=prompts.load("judge")["reference"].format(steps=reference) + "\n\n" if reference else "",
    )


def _numbered(steps: Sequence[str]) -> str:
    return "\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1))


def _question(prompt: str, form: type[BaseModel], **words: Any) -> Question:
    text = prompts.load("judge")[prompt].format(**words)
    return Question((("user", text),), _schema(form))


@cache
def _schema(form: type[BaseModel]) -> str:
    return json.dumps(form.model_json_schema(), sort_keys=True)

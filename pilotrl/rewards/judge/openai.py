"""A judge that asks a model behind an OpenAI-compatible address. docs/judge.md says how its verdicts are to be read.

It is shown what the rules are shown: the step, what the player saw, and the action, put into words where an environment's
actions are opaque. It begins on an episode as soon as that has ended, while others are still played.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pilotrl import prompts
from pilotrl.endpoint import Address, Endpoint, Question
from pilotrl.rewards.judge import Item, PlanItem
from pilotrl.types import PlanScores

STRICT = ConfigDict(strict=True, json_schema_extra={"additionalProperties": False})


class Verdict(BaseModel):
    """How far an action follows a step."""

    model_config = STRICT
    reason: str
    adherence: int = Field(ge=0, le=2)


class Grades(BaseModel):
    """What a plan is worth."""

    model_config = STRICT
    reason: str
    correctness: int = Field(ge=1, le=5)
    executability: int = Field(ge=1, le=5)
    standardization: int = Field(ge=1, le=5)


Form = TypeVar("Form", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class OpenAiJudge(Address):
    """Grades by prompts. `resolve` is the environment's, where its actions are opaque handles; else None.

    Raises UserError for an address that cannot be, and for a key that is not in the environment.
    """

    resolve: Callable[[str, str], str] | None
    """(observation, action) -> what the action refers to, in words."""

    def __post_init__(self) -> None:
        self.endpoints()

    def endpoints(self) -> list[Endpoint]:
        """Whom it asks."""
        return [Endpoint.shared(self)]

    def begin(self, items: Sequence[Item], plans: Sequence[PlanItem] = ()) -> None:
        """Start asking for what `grade` and `grade_plans` will want."""
        for item in items:
            Endpoint.shared(self).ask(self._question(item), read_verdict)
        for plan in plans:
            Endpoint.shared(self).ask(_plan_question(plan), read_grades)

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        """One verdict an item: 0, 1 or 2, or None where the endpoint gave none that can be read."""
        return Endpoint.shared(self).answers([self._question(item) for item in items], read_verdict)

    def grade_plans(self, items: Sequence[PlanItem]) -> list[PlanScores | None]:
        """Correctness, executability and standardization of each plan, 1 to 5; None where there are none."""
        return Endpoint.shared(self).answers([_plan_question(item) for item in items], read_grades)

    def _question(self, item: Item) -> Question:
        step, observation, action = item
        said = self.resolve(observation, action) if self.resolve else ""
        shown = f"{action} ({said})" if said and said != action else action
        return _question("adherence", Verdict, step=step, observation=observation, action=shown)


def read_verdict(text: str) -> int:
    """0, 1 or 2. Raises ValueError for a reply that gives none."""
    return read(text, Verdict).adherence


def read_grades(text: str) -> PlanScores:
    """Three numbers from 1 to 5. Raises ValueError for a reply that does not give them."""
    grades = read(text, Grades)
    return PlanScores(grades.correctness, grades.executability, grades.standardization)


def read(text: str, form: type[Form]) -> Form:
    """The last JSON object in a reply that has this form: models talk before it, and wrap it in marks.

    Raises ValueError where there is none.
    """
    problem: ValueError = ValueError("no JSON object")
    for start in reversed([i for i, char in enumerate(text) if char == "{"]):
        try:
            found, _ = json.JSONDecoder().raw_decode(text, start)
            return form.model_validate(found)
        except ValueError as error:  # pydantic's are too
            problem = error
        except RecursionError:
            problem = ValueError("JSON without end")
    raise problem


def _plan_question(item: PlanItem) -> Question:
    known = _numbered(item.reference)
    return _question(
        "plan",
        Grades,
        first=item.first,
        latest=item.latest,
        actions="\n".join(item.actions) or "none",
        plan=_numbered(item.steps) or "(empty)",
        reference=prompts.load("judge")["reference"].format(steps=known) + "\n\n" if known else "",
    )


def _numbered(steps: Sequence[str]) -> str:
    return "\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1))


def _question(prompt: str, form: type[BaseModel], **words: Any) -> Question:
    text = prompts.load("judge")[prompt].format(**words)
    return Question((("user", text),), _schema(form))


@cache
def _schema(form: type[BaseModel]) -> str:
    return json.dumps(form.model_json_schema(), sort_keys=True)

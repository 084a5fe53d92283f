"""An ensemble of judges: the median or mean of their verdicts. A judge that fails has no vote."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from statistics import fmean, median_low
from typing import Any, TypeVar

from pilotrl.endpoint import Endpoint
from pilotrl.rewards.judge import Item, Judge, PlanItem, RemoteJudge, Resolve, build
from pilotrl.types import PlanScores, UserError, WorldError

T = TypeVar("T")
VOTES: dict[str, Callable[[Sequence[int]], int]] = {
    "median": median_low,
    "mean": lambda verdicts: math.floor(fmean(verdicts) + 0.5),
}


class Ensemble:
    """A judge made of `members`: settings of judges, by name; `vote` is median or mean.

    Raises UserError for another vote, for no members, and for a member's own invalid settings.
    """

    def __init__(self, *, resolve: Resolve | None, vote: str, members: Mapping[str, Mapping[str, Any]]) -> None:
        if vote not in VOTES:
            raise UserError(f"vote={vote}: must be one of {', '.join(VOTES)}")
        if not members:
            raise UserError("members={}: must name at least one judge")
        self.vote, self.members = VOTES[vote], [_member(name, members[name], resolve) for name in members]

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        """The vote on every item; None if fewer than half of the members have a verdict."""
        self.begin(items)
        return [self._vote(verdicts) for verdicts in self._all(lambda judge: judge.grade(items), len(items))]

    def grade_plans(self, items: Sequence[PlanItem]) -> list[PlanScores | None]:
        """The vote on every score of every plan; None if fewer than half of the members have scores."""
        self.begin((), items)
        voted = []
        for scores in self._all(lambda judge: judge.grade_plans(items), len(items)):
            each = [self._vote(list(score)) for score in zip(*scores, strict=True)] if self._enough(scores) else []
            voted.append(PlanScores(*[score for score in each if score is not None]) if each else None)
        return voted

    def begin(self, items: Sequence[Item], plans: Sequence[PlanItem] = ()) -> None:
        """Start the requests of all members that are API models."""
        for judge in self.members:
            if isinstance(judge, RemoteJudge):
                judge.begin(items, plans)

    def endpoints(self) -> list[Endpoint]:
        """The endpoints of the members."""
        return [end for judge in self.members if isinstance(judge, RemoteJudge) for end in judge.endpoints()]

    def _all(self, grade: Callable[[Judge], list[T | None]], count: int) -> list[list[T]]:
        """For each item the members' verdicts that are not None."""
        found: list[list[T]] = [[] for _ in range(count)]
        for judge in self.members:
            with suppress(WorldError):
                for verdicts, verdict in zip(found, grade(judge), strict=True):
                    verdicts += [] if verdict is None else [verdict]
        return found

    def _enough(self, verdicts: Sequence[object]) -> bool:
        return 2 * len(verdicts) >= len(self.members)

    def _vote(self, verdicts: Sequence[int]) -> int | None:
        return self.vote(verdicts) if self._enough(verdicts) else None


def _member(name: str, settings: Any, resolve: Resolve | None) -> Judge:
    if not (isinstance(settings, Mapping) and "_target_" in settings):
        raise UserError(f"members.{name}={settings}: must be a judge with its _target_, as in conf/judge/ensemble.yaml")
    try:
        return build(dict(settings), resolve)
    except UserError as error:
        raise UserError(f"members.{name}.{error}") from error

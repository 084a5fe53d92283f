"""Grading: selects the actions and plans of episodes that a judge grades, and stores its verdicts in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from pilotrl.rewards.judge import Item, Judge, PlanItem, RemoteJudge
from pilotrl.types import Call, Episode, PlanScores, Turn, UserError, WorldError, WrittenPlan

T = TypeVar("T")
V = TypeVar("V")

ATTEMPTS = 3
"""How often a judge that fails is asked."""


def grade(judge: Judge, episodes: Sequence[Episode], unselected: bool) -> None:
    """Set the verdict of every turn that had a plan step, and the scores of plans; None if the judge gives none.

    What the environment rejected has followed no step: 0, and no judge is asked. unselected: candidate plans that were not
    selected are graded too."""
    for turn, _ in (pair for episode in episodes for pair in due(episode)):
        turn.adherence = 0
    turns = [pair for episode in episodes for pair in asked(episode)]
    verdicts = _retried(judge.grade, [item for _, item in turns])
    _check(verdicts, len(turns), lambda verdict: verdict in (0, 1, 2), "0, 1, 2 or None an action")
    for (turn, _), verdict in zip(turns, verdicts, strict=True):
        turn.adherence = verdict
    plans = [pair for episode in episodes for pair in plans_due(episode, unselected)]
    if plans:
        graded = _retried(judge.grade_plans, [item for _, item in plans])
        _check(graded, len(plans), _are_scores, "PlanScores of 1 to 5 or None a plan")
        for (written, _), scores in zip(plans, graded, strict=True):
            written.scores = scores


def _check(verdicts: Sequence[V | None], count: int, fits: Callable[[V], bool], allowed: str) -> None:
    """Raises UserError for a judge that says something else than verdicts."""
    strange = next((verdict for verdict in verdicts if verdict is not None and not fits(verdict)), None)
    if len(verdicts) != count or strange is not None:
        said = f"{len(verdicts)} verdicts on {count}" if strange is None else repr(strange)
        raise UserError(f"judge: gave {said}; must be {allowed}")


def _are_scores(scores: PlanScores) -> bool:
    return isinstance(scores, PlanScores) and all(1 <= score <= 5 for score in scores)


def begin(judge: Judge, episode: Episode, unselected: bool) -> None:
    """Lets a judge that is an API model start on an episode that has ended."""
    if isinstance(judge, RemoteJudge):
        judge.begin([item for _, item in asked(episode)], [item for _, item in plans_due(episode, unselected)])


def due(episode: Episode) -> list[tuple[Turn, Item]]:
    """The turns that had a plan step, each with what there is to see of it; a loose step is what it means."""
    before = [episode.observation, *(turn.observation for turn in episode.turns)]
    return [
        (turn, _seen(turn, plan[0], before[t - 1]))
        for t, turn in enumerate(episode.turns, 1)
        if (plan := turn.remaining(t))
    ]


def _seen(turn: Turn, step: str, before: str) -> Item:
    """A turn as a judge sees it."""
    if turn.step:
        return Item(step, before, turn.action, turn.observation, True, turn.meant)
    return Item(turn.meant or step, before, turn.action, turn.observation)


def asked(episode: Episode) -> list[tuple[Turn, Item]]:
    """Those of `due` that a judge is asked about: the environment did what the action says."""
    return [pair for pair in due(episode) if pair[0].valid]


def plans_due(episode: Episode, unselected: bool) -> list[tuple[WrittenPlan, PlanItem]]:
    """The plans of an episode that are to be graded; a reply that is no plan gets the lowest scores without a judge."""
    found: list[tuple[WrittenPlan, PlanItem]] = []
    for call in episode.calls:
        if (written := call.written) and (call.selected or unselected):
            written.scores = PlanScores(1, 1, 1)
            found += [] if written.steps is None else [(written, _item(episode, call, written))]
    return found


def _item(episode: Episode, call: Call, written: WrittenPlan) -> PlanItem:
    """A plan as a judge sees it."""
    done = episode.turns[: call.turn - 1]
    latest = done[-1].observation if done else episode.observation
    actions, steps = tuple(turn.action for turn in done), written.steps or ()
    return PlanItem(episode.observation, latest, actions, steps, written.reference, bool(call.step))


def _retried(ask: Callable[[Sequence[T]], list[V | None]], items: Sequence[T]) -> list[V | None]:
    """The verdicts; all None if the judge fails every time, which leaves the episodes without a reward."""
    for _ in range(ATTEMPTS):
        with suppress(WorldError):
            return ask(items)
    return [None] * len(items)

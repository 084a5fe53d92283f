"""Reward terms: named numbers in [0, 1] about an episode; the reward is their weighted mean.

The reward is the weighted mean of the stage's terms less the length penalty, so it lies in [-overlong_penalty, 1]. A term
that does not apply (adherence without a plan) is left out of the mean. The reward is None, which leaves the episode out of
baselines, where it is broken, or where a term is missing because the judge failed. An episode without any turn is legal:
its context was full at once. Its length is that of the sampled tokens of trained roles as a share of what those replies
may have at most, whatever the number of turns; observations, plans of a teacher and candidates that were not selected do
not count.

A term of one's own is a class whose objects are called with an episode, named in `reward.terms` (docs/extending.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from pilotrl.types import Episode, Role, RunFailed, Turn, UserError, WrittenPlan

Term = Callable[[Episode], float | None]


def format_share(episode: Episode) -> float | None:
    """Share of turns whose replies have the structure that the prompt asks for; an action of no effect still counts."""
    return _mean([float(turn.well_formed) for turn in episode.turns])


def adherence(episode: Episode) -> float | None:
    """How far the actions follow the plan: mean verdict / 2 over the turns that have one."""
    return _mean([turn.adherence / 2 for turn in episode.turns if turn.adherence is not None])


def plan_quality(episode: Episode) -> float | None:
    """How good the plans are that the policy wrote and followed: mean over those that have scores."""
    return _mean([written.scores.share for written in _plans(episode) if written.scores])


def outcome(episode: Episode) -> float | None:
    """0 not solved, 1/2 solved with detours, 1 solved within the turns that the environment calls efficient."""
    if episode.outcome != "solved":
        return None if episode.outcome == "broken" else 0.0
    return 1.0 if episode.par is None or len(episode.turns) <= episode.par else 0.5


def score_of_environment(episode: Episode) -> float | None:
    """The environment's own score at the end, such as WebShop's share of attributes that the purchase has."""
    return None if episode.outcome == "broken" else episode.score


TERMS: dict[str, Term] = {
    "format": format_share,
    "adherence": adherence,
    "outcome": outcome,
    "plan_quality": plan_quality,
    # the first of the three scores of `plan_quality` alone: how far those plans achieve what the task requires
    "correctness": lambda episode: _mean([(w.scores.correctness - 1) / 4 for w in _plans(episode) if w.scores]),
    "score": score_of_environment,
}
"""Every term of ours, by the name that stage.terms and reward.weights use."""


def score(
    episode: Episode,
    terms: Sequence[str],
    weights: Mapping[str, float],
    overlong_buffer: float,
    overlong_penalty: float,
    trains: Mapping[Role, int],
    own: Mapping[str, Term] = {},
) -> None:
    """Fill `episode.terms` (every term there is, to be logged), `episode.reward` (of `terms` alone) and what calls earned.

    `trains` says of each role that learns how many tokens a reply of it may have; `own` are terms beside `TERMS`.

    Raises UserError for a term that does not exist or has no weight, and for a value outside of [0, 1].
    """
    _check(terms, weights, own)
    episode.terms = {name: term(episode) for name, term in TERMS.items()}
    if own:
        episode.terms |= _own_terms(episode, own)
    counted = [name for name in terms if weights[name] > 0]
    episode.reward = _weighted_mean(episode, counted, weights)
    _note_process_rewards(episode, counted)
    if episode.reward is not None:
        episode.reward -= overlong_penalty * overlong(_length(episode, trains), overlong_buffer)


def _own_terms(episode: Episode, own: Mapping[str, Term]) -> dict[str, float | None]:
    """Terms of a user's own. Raises UserError for a value outside of [0, 1], RunFailed for one that is no number."""
    values = {}
    for name, term in own.items():
        values[name] = value = term(episode)
        if isinstance(value, float) and not math.isfinite(value):
            raise RunFailed(f"reward.terms.{name}: gave {value} of an episode; must be from 0 to 1, or None")
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise UserError(f"reward.terms.{name}: gave {value} of an episode; must be from 0 to 1, or None")
    return values


def overlong(length: float, buffer: float) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, eq. 13) as a share of the penalty, 0 to 1.

    `length` is a share of the longest. 0 up to `1 - buffer`, then linear, 1 at the longest. `buffer` 0 turns it off."""
    return min(1.0, max(0.0, 1 - (1 - length) / buffer)) if buffer else 0.0


def _length(episode: Episode, limits: Mapping[Role, int]) -> float:
    """Tokens of the replies of these roles, of 1 for replies that all end at their limit."""
    calls = [call for call in episode.calls if call.role in limits and call.selected]
    return sum(len(call.ids) for call in calls) / sum(limits[call.role] for call in calls) if calls else 0.0


def unscored_verdicts(episode: Episode) -> int:
    """Turns that had a current step, and plans to be graded, that have no verdict."""
    plans = sum(written.scores is None for written in _plans(episode))
    return plans + sum(turn.adherence is None for turn in _due(episode))


def _due(episode: Episode) -> Iterator[Turn]:
    return (turn for t, turn in enumerate(episode.turns, 1) if turn.remaining(t))


def _plans(episode: Episode) -> Iterator[WrittenPlan]:
    return (call.written for call in episode.calls if call.written and call.selected)


def _note_process_rewards(episode: Episode, terms: Sequence[str]) -> None:
    """Note on each call what it did by itself, where the term that says so counts."""
    judged = [(t, turn.adherence) for t, turn in enumerate(episode.turns, 1) if "adherence" in terms]
    followed = {t: verdict / 2 for t, verdict in judged if verdict is not None}
    for call in episode.calls:
        plan = call.written.scores if call.written and "plan_quality" in terms else None
        call.process_reward = followed.get(call.turn) if call.role == "executor" else plan and plan.share


def _weighted_mean(episode: Episode, terms: Sequence[str], weights: Mapping[str, float]) -> float | None:
    known = [(weights[name], value) for name in terms if (value := episode.terms[name]) is not None]
    missing = any(episode.terms[name] is None and _asked(episode, name) for name in terms)
    if episode.outcome == "broken" or missing or not known:
        return None
    return sum(weight * value for weight, value in known) / sum(weight for weight, _ in known)


def _asked(episode: Episode, term: str) -> bool:
    """Whether there was something to judge: a term without a value is missing then, and does not apply otherwise."""
    judged = {"plan_quality": _plans(episode), "correctness": _plans(episode), "adherence": _due(episode)}
    return any(judged.get(term, ()))


def _check(terms: Sequence[str], weights: Mapping[str, float], own: Mapping[str, Term]) -> None:
    for name in terms:
        if name not in TERMS and name not in own:
            raise UserError(f"stage.terms={name}: there is no such reward term; there are {', '.join([*TERMS, *own])}")
        if name not in weights:
            raise UserError(f"reward.weights has no {name}, which stage.terms counts; add reward.weights.{name}")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

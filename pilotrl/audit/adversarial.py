"""Adversarial plans: grades a run's episodes again, as recorded and with plans that say little, to see what a judge pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pilotrl.analysis.statistics import paired_interval, per_task
from pilotrl.audit.episodes import JUDGED, MEASURES, Panels
from pilotrl.rewards.judge import Judge
from pilotrl.rewards.judge.grading import due, grade
from pilotrl.rewards.judge.lexicon import BARE, VERBS
from pilotrl.rewards.judge.rule import Resolve
from pilotrl.rewards.judge.step_parser import read_action
from pilotrl.rewards.terms import plan_quality
from pilotrl.types import Episode

Judges = Mapping[str, Judge]
"""One judge, built for each environment, by the environment's name."""
NOTHING = "do the next thing"


def regraded(judges: Judges, episodes: Sequence[Episode]) -> list[Episode]:
    """Copies of episodes, graded by this judge."""
    copies = [_copied(episode) for episode in episodes]
    for env, judge in judges.items():
        grade(judge, [episode for episode in copies if episode.task.env == env], unselected=False)
    for episode in copies:
        episode.terms["plan_quality"] = plan_quality(episode)
    return copies


def all_regraded(judges: Judges, panels: Panels) -> Panels:
    """Copies of all evaluation episodes, graded by this judge."""
    return {
        protocol: {when: regraded(judges, episodes) for when, episodes in held.items()}
        for protocol, held in panels.items()
    }


def missing(panels: Panels) -> dict[str, int]:
    """How many grades were asked for, and how many are missing."""
    episodes = [episode for held in panels.values() for each in held.values() for episode in each]
    grades: list[Any] = [turn.adherence for episode in episodes for turn, _ in due(episode)]
    grades += [call.written.scores for e in episodes for call in e.calls if call.selected and call.written]
    return {"asked": len(grades), "missing": grades.count(None)}


def _copied(episode: Episode) -> Episode:
    turns = [replace(turn) for turn in episode.turns]
    calls = [replace(call, written=call.written and replace(call.written)) for call in episode.calls]
    return replace(episode, turns=turns, calls=calls, terms=dict(episode.terms))


def _nothing(episode: Episode, resolve: Resolve | None) -> list[str]:
    return [NOTHING] * len(episode.turns)


def _kind_only(episode: Episode, resolve: Resolve | None) -> list[str]:
    """Steps that name the kind of each action taken, and no object."""
    before = [episode.observation, *(turn.observation for turn in episode.turns)]
    actions = [resolve(before[t], turn.action) if resolve else turn.action for t, turn in enumerate(episode.turns)]
    kinds = [min(read_action(words).kinds, default=None) for words in actions]
    phrases = [None if kind is None else VERBS[kind].split(";")[0] for kind in kinds]
    pairs = zip(kinds, phrases, strict=True)
    return [NOTHING if phrase is None else phrase if kind in BARE else f"{phrase} something" for kind, phrase in pairs]


def _task(episode: Episode, resolve: Resolve | None) -> list[str]:
    """Steps that all repeat the first observation, which holds the task, as one line."""
    return [" ".join(episode.observation.split())] * len(episode.turns)


PLANTED: dict[str, Callable[[Episode, Resolve | None], list[str]]] = {
    "says_nothing": _nothing,
    "names_nothing": _kind_only,
    "restates_task": _task,
}
"""Adversarial plans that can be made for any task: one step for each action of an episode."""


def planted(episode: Episode, steps: Sequence[str]) -> Episode:
    """A copy of an episode with the same actions, under a plan with these steps."""
    made = _copied(episode)
    for turn in made.turns:
        turn.plan = tuple(steps)
    for call in made.calls:
        if call.written:
            call.written.steps = tuple(steps[call.turn - 1 :])
    return made


def bribed(judges: Judges, resolves: Mapping[str, Resolve | None], own: Sequence[Episode]) -> dict[str, Any]:
    """The judge's grades for the written plans and for adversarial ones, by measure: means over tasks, and the paired
    difference with its interval. `own`: the episodes, graded by this judge."""
    found: dict[str, Any] = {}
    for name, steps in PLANTED.items():
        copies = [planted(episode, steps(episode, resolves[episode.task.env])) for episode in own if episode.turns]
        changed = regraded(judges, copies)
        for measure in JUDGED:
            real, fake = (per_task(episodes, MEASURES[measure]) for episodes in (own, changed))
            tasks = [task for task in real if task in fake]
            if tasks:
                sides = [real[task] for task in tasks], [fake[task] for task in tasks]
                means = {"written": sum(sides[0]) / len(tasks), "planted": sum(sides[1]) / len(tasks)}
                found.setdefault(measure, {})[name] = means | {"tasks": len(tasks), **paired_interval(*sides)}
    return found

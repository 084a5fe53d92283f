"""Adversarial plans: grades a run's episodes again, as recorded and with plans that say little, to see what a judge pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pilotrl.analysis.statistics import paired_interval, per_task
from pilotrl.audit.episodes import JUDGED, MEASURES, Panels
from pilotrl.rewards.judge import Judge, Resolve
from pilotrl.rewards.judge.grading import due, grade
from pilotrl.rewards.judge.lexicon import BARE, VERBS
from pilotrl.rewards.judge.step_parser import read_action
from pilotrl.rewards.terms import TERMS
from pilotrl.types import Episode, Plan, WrittenPlan

Judges = Mapping[str, Judge]
"""One judge, built for each environment, by the environment's name."""
NOTHING = "do the next thing"


def regraded(judges: Judges, episodes: Sequence[Episode]) -> list[Episode]:
    """Copies of episodes, graded by this judge."""
    copies = [_copied(episode) for episode in episodes]
    for env, judge in judges.items():
        grade(judge, [episode for episode in copies if episode.task.env == env], unselected=False)
    for episode in copies:
        episode.terms |= {name: TERMS[name](episode) for name in ("plan_quality", "correctness")}
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
    actions = [
        resolve(before[t], turn.action, turn.observation) if resolve else turn.action
        for t, turn in enumerate(episode.turns)
    ]
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
        turn.plan, turn.meant, turn.step = tuple(steps), "", 0
    for call in made.calls:
        call.step = 0
        if call.written:
            call.written.steps = tuple(steps[call.turn - 1 :])
    return made


CONSTANT = {
    "alfworld": ("look inside fridge 1", "get it"),
    "babyai": ("look to the left", "open the door"),
    "iqa": ("look to the left", "look to the left", "walk on ahead", "report the result"),
    "maze": ("go down", "go left", "go left", "go up"),
    "textcraft": ("collect the ingredients", "make the goal"),
    "tools": ("find out what is needed", "give the result where it belongs"),
    "toy": ("push the red button",),
    "webshop": ("open the best match under $50", "buy it"),
    "wordle": ("guess arise", "guess a matching word"),
}
"""One plan for every state of every task of an environment. What it earns is where plan quality begins, not 0."""


def replanned(episode: Episode, steps: Callable[[WrittenPlan], Plan]) -> Episode:
    """A copy of an episode with other written plans, each made from one that was written; the actions are left as they are."""
    made = _copied(episode)
    for call in made.calls:
        if call.written:
            call.written.steps = steps(call.written)
    return made


def references(judges: Judges, own: Sequence[Episode]) -> dict[str, Any]:
    """What a judge gives, in the same states, for one constant plan and for the first step of the expert's plan alone: beside the
    written plans, by measure. Of environments without a constant plan or an expert nothing. Arguments as of `bribed`."""
    known = [e for e in own if any(c.written and c.written.reference for c in e.calls)]
    rows = {
        "constant": [replanned(e, lambda _, e=e: CONSTANT[e.task.env]) for e in known if e.task.env in CONSTANT],  # type: ignore[misc]
        "first_step": [replanned(e, lambda written: written.reference[:1]) for e in known],
    }
    found: dict[str, Any] = {}
    for name, copies in rows.items():
        changed = regraded(judges, copies)
        for measure in ("plan_quality", "correctness"):
            if one := _compared(own, changed, measure):
                found.setdefault(measure, {})[name] = one
    return found


def _compared(own: Sequence[Episode], changed: Sequence[Episode], measure: str) -> dict[str, Any] | None:
    """Means over tasks, and the paired difference with its interval; None without a task that has both."""
    real, fake = (per_task(episodes, MEASURES[measure]) for episodes in (own, changed))
    tasks = [task for task in real if task in fake]
    if not tasks:
        return None
    sides = [real[task] for task in tasks], [fake[task] for task in tasks]
    means = {"written": sum(sides[0]) / len(tasks), "planted": sum(sides[1]) / len(tasks)}
    return means | {"tasks": len(tasks), **paired_interval(*sides)}


def bribed(judges: Judges, resolves: Mapping[str, Resolve | None], own: Sequence[Episode]) -> dict[str, Any]:
    """The judge's grades for the written plans and for adversarial ones, by measure: means over tasks, and the paired
    difference with its interval. `own`: the episodes, graded by this judge."""
    found: dict[str, Any] = {}
    for name, steps in PLANTED.items():
        copies = [planted(episode, steps(episode, resolves[episode.task.env])) for episode in own if episode.turns]
        changed = regraded(judges, copies)
        for measure in JUDGED:
            if one := _compared(own, changed, measure):
                found.setdefault(measure, {})[name] = one
    return found

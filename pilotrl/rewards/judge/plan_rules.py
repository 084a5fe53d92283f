"""Rules that score a plan: correctness against the expert's plan, executability, and standardization (how it is written).

docs/judge.md has the table of rules, and says where they fail.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pilotrl.rewards.judge import PlanItem
from pilotrl.rewards.judge.lexicon import ANYWHERE, PHRASES, PURPOSE
from pilotrl.rewards.judge.step_parser import Step, plain, read_step, stems
from pilotrl.types import Plan, PlanScores

WORST, BEST, UNKNOWN = 1, 5, 3
EXTRA = 0.5
"""Penalty for a step that the reference does not have, relative to 1 for a missing one."""
VAGUE = 0.5
"""Credit for a step without the object that the reference names, or with another price."""
LONG = 15
"""Words of a step, at most, for it to count as short."""
RUN = 6
"""So many consecutive words from the first observation count as restating the task."""

JOINT = re.compile(r"[;,]|\b(?:and|then|before|after)\b")
ACTION = re.compile(r"\w\[|^\s*(?:action|thought)\s*:|^\s*\d+\.", re.IGNORECASE)
"""Signs of an action string in a step, or of another numbered step."""


def grade_plan(item: PlanItem) -> PlanScores:
    """Scores of a plan; the lowest for an empty one."""
    if not item.steps:
        return PlanScores(WORST, WORST, WORST)
    return PlanScores(correctness(item.steps, item.reference), executability(item), standardization(item))


def correctness(steps: Plan, reference: Plan) -> int:
    """How much of the reference the steps cover, in its order; `UNKNOWN` without a reference.

    The next step, in first place, weighs as much as all later ones together: it is acted on before the plan is rewritten.
    """
    if not reference:
        return UNKNOWN
    later = len(reference) - 1
    covered, used = _aligned(_matches(steps, reference), max(1, later))
    return _score(covered / (max(1, later) + later + EXTRA * (len(steps) - used)))


def _matches(steps: Plan, reference: Plan) -> list[list[float]]:
    """[steps][reference] in [0, 1]: how much of each reference step each step covers."""
    due = [read_step(step) for step in reference]
    everything = frozenset[str]().union(*(step.words for step in due))
    return [[_match(read_step(step), wanted, everything) for wanted in due] for step in steps]


def _match(step: Step, due: Step, everything: frozenset[str]) -> float:
    """How far two steps ask for the same kind of deed on the same object; less if it names objects of other steps."""
    if not step.kinds & due.kinds and (step.kinds or due.kinds or not step.words):
        return 0.0
    asked, wanted = step.words - step.prices, due.words - due.prices
    other = bool(step.prices and due.prices and step.prices != due.prices) or step.most != due.most < math.inf
    price = VAGUE if other else 1.0
    if not wanted:
        return price
    if not asked:
        return VAGUE
    strays = (asked & everything) - wanted
    return price * len(asked & wanted) / (len(wanted) + len(strays))


def _aligned(table: Sequence[Sequence[float]], first: int) -> tuple[float, int]:
    """The largest sum of matches over order-preserving alignments, in which a match of both first steps counts `first` times;
    and how many steps that alignment uses."""
    best = [(0.0, 0)] * (len(table[0]) + 1)
    for i, row in enumerate(table):
        before, best = best, [(0.0, 0)]
        for j, match in enumerate(row):
            value, used = before[j]
            taken = (value + (match if i or j else first * match), used + 1) if match else before[j]
            best.append(max(taken, before[j + 1], best[j], key=lambda pair: (pair[0], -pair[1])))
    return best[-1]


def executability(item: PlanItem) -> int:
    """Mean over the steps of how far each asks for one deed on an object that was seen."""
    seen = _seen(item.first) | _seen(item.latest) | ANYWHERE
    seen = seen.union(*(_seen(text) for text in (*item.actions, *item.reference)))
    return _score(_mean(_doable(step, seen, first=index == 0) for index, step in enumerate(item.steps)))


def _doable(text: str, seen: frozenset[str], first: bool) -> float:
    """Executability of a step, in [0, 1]: 0 if it says nothing, asks for two deeds, or names only what was never seen."""
    step = read_step(text)
    if step.vacuous or _compound(text):
        return 0.0
    if not step.kinds:
        return 0.5  # an object without a deed
    if not step.words:
        return 0.5 if first and step.nameless else 1.0
    if "guess" in step.kinds:
        return 1.0  # a guess is not seen before it is made
    checked = [word for word in step.words if word[0] != "#" or word in step.prices]
    return _mean(word in seen for word in checked) if checked else 1.0


@lru_cache(maxsize=65536)
def _compound(text: str) -> bool:
    """Whether a step asks for two deeds."""
    whole = stems(plain(text))
    if tuple(whole[:3]) in PHRASES:  # "toggle and go" is one
        return False
    parts = [_begins(part) for part in JOINT.split(PURPOSE.sub("", plain(text)))]
    return sum(parts) > 1


def _begins(part: str) -> bool:
    """Whether a part of a step begins with a known verb phrase."""
    words = stems(part)
    return bool(words) and any(
        tuple(words[:length]) in PHRASES and PHRASES[tuple(words[:length])] for length in (1, 2, 3)
    )


def standardization(item: PlanItem) -> int:
    """Share of the steps that are written as they should be; a point less for a plan more than twice as long as needed."""
    done = {action.strip().lower() for action in item.actions}
    share = _mean(_usual(step, item.first, done) for step in item.steps)
    long = bool(item.reference) and len(item.steps) > 2 * len(item.reference) + 2
    return max(WORST, _score(share) - long)


def _usual(step: str, first: str, done: set[str]) -> bool:
    """Whether a step is a short line of its own words: neither an action string nor copied from the task."""
    typed = ACTION.search(step) or step.strip().lower() in done
    return 0 < len(stems(plain(step))) <= LONG and not typed and not restates(step, first)


@lru_cache(maxsize=65536)
def restates(step: str, first: str) -> bool:
    """Whether a step copies `RUN` consecutive words from the first observation, which holds the task."""
    words, source = stems(plain(step)), _stemmed(first)
    return any(" ".join(words[i : i + RUN]) in source for i in range(len(words) - RUN + 1))


@lru_cache(maxsize=4096)
def _stemmed(text: str) -> str:
    return " ".join(stems(plain(text)))


@lru_cache(maxsize=4096)
def _seen(text: str) -> frozenset[str]:
    return frozenset(stems(plain(text)))


def _score(share: float) -> int:
    return WORST + math.floor((BEST - WORST) * share + 0.5)


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept)

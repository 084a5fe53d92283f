"""A judge made of rules over words: fast, free, the same everywhere. docs/judge.md tells the rules and where they err.

A step and an action are each read as: which kind of deed (`search`, `open`, `choose`, ...), which words and numbers
name its object, which bounds on the price it sets. The verdict compares the two readings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from pilotrl.judge import Item
from pilotrl.judge.lexicon import (
    ALONE,
    ATTRIBUTES,
    BARE,
    DEEDS,
    FILLERS,
    GENERIC,
    LEAST,
    LONGEST,
    MOST,
    PHRASES,
    PURPOSE,
    SAME,
    SEEKING,
    TRUTH,
    VAGUE,
    stem,
)

Resolve = Callable[[str, str], str]
"""(observation, action) -> what the action refers to, in words; "" where it refers to nothing there."""

Table = Mapping[tuple[str, ...], frozenset[str]]
Pairs = frozenset[tuple[str, str, str]]
"""Neighbouring words, and the two written as one: "remote control" is met by "remotecontrol"."""

TOKEN = re.compile(r"\$\s?\d[\d,]*(?:\.\d+)?|\d+(?:\.\d+)?(?![a-z\d])|[a-z0-9]+")
PRICE = re.compile(r"\$\s?(\d[\d,]*(?:\.\d+)?)|(\d+(?:\.\d+)?) dollars?\b")
LETTERS = re.compile(r"\b[a-z](?: [a-z]){3,}\b")
EMPTY = re.compile(r"\[\s*\]")


@dataclass(frozen=True, slots=True)
class Step:
    """What a plan step asks for."""

    kinds: frozenset[str]
    """Kinds of deed that its verb can mean; empty: no verb was understood."""
    words: frozenset[str]
    """What names the object: stems, and numbers as "#23"."""
    prices: frozenset[str]
    """Those of the words that are amounts of money."""
    pairs: Pairs
    least: float
    most: float
    """Bounds on the price, in dollars."""
    place: frozenset[str] | None
    """Where the thing looked for is said to be, empty if not said; None for a step that looks for nothing."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What an action does."""

    kinds: frozenset[str]
    """Empty: the action was not understood."""
    words: frozenset[str]
    pairs: Pairs
    prices: tuple[float, ...]
    alone: bool
    """The action is one word by its nature, such as `drop`, and cannot name an object."""


class RuleJudge:
    """Grades adherence by rules. `resolve` is the environment's, where its actions are opaque handles; else None."""

    def __init__(self, *, resolve: Resolve | None) -> None:
        self.resolve = resolve

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        """One verdict an item: 0, 1 or 2, and never None, since rules can always be read."""
        return [verdict(step, self._said(observation, action)) for step, observation, action in items]

    def _said(self, observation: str, action: str) -> str:
        return self.resolve(observation, action) if self.resolve else action


@lru_cache(maxsize=65536)
def verdict(step: str, said: str) -> int:
    """0 ignores the step, 1 in part, 2 in full, for an action put into words; "" is an action that means nothing."""
    asked, deed = read_step(step), read_action(said)
    if not deed.kinds:
        return 0
    if not asked.kinds and not asked.words:
        return 1  # vacuous: whatever is done follows it, and nothing follows it in full
    shared = (asked.kinds or deed.kinds - BARE) & deed.kinds
    if shared & BARE:
        return 2
    if "back" in asked.kinds and "home" in deed.kinds:
        return 1  # back, but too far
    return _same_kind(asked, deed, shared) if shared else _other_kind(asked, deed)


def _same_kind(asked: Step, deed: Deed, shared: frozenset[str]) -> int:
    if deed.alone and shared - {"guess"}:
        return 2
    if not deed.words:
        return 0
    due = asked.words
    if "search" in shared:
        due -= asked.prices  # a price cannot be searched for
    elif "go" in shared and asked.place is not None:
        due = asked.place
    met = _met(due, asked, deed)
    full = met == len(due) and _within(asked, deed)
    if "search" in shared and due and len(deed.words - due) > len(due) + 2:
        full = False  # a query stuffed with words
    return 2 if full else int(2 * met >= len(due))


def _other_kind(asked: Step, deed: Deed) -> int:
    """The right object may still be met by the wrong deed; a lone word without a verb is no deed."""
    due = asked.words - asked.prices
    return int(bool(due) and deed.kinds != {"guess"} and _met(due, asked, deed) == len(due))


def _met(due: frozenset[str], asked: Step, deed: Deed) -> int:
    glued = {word for *pair, one in asked.pairs if one in deed.words for word in pair}
    apart = {one for _, _, one in deed.pairs}
    return len(due & (deed.words | glued | apart))


def _within(asked: Step, deed: Deed) -> bool:
    return not deed.prices or (asked.least <= max(deed.prices) and min(deed.prices) <= asked.most)


@lru_cache(maxsize=65536)
def read_step(step: str) -> Step:
    """A plan step, without its purpose; without names of attributes where their values stand beside them."""
    text = _plain(step)
    kinds, tokens = _verb(_tokens(_unbounded(PURPOSE.sub("", text))), PHRASES)
    if not _naming(tokens):  # "proceed to check the features": no purpose, but the deed itself
        kinds, tokens = _verb(_tokens(_unbounded(text)), PHRASES)
    content = _naming(tokens)
    values = [word for word in content if word not in ATTRIBUTES]
    if "answer" in kinds:
        values = [word for word in values if word[0] == "#" or word in TRUTH] or values
    return Step(
        kinds=kinds,
        words=frozenset(values or content),
        prices=frozenset(f"#{price:g}" for price in _prices(text)),
        pairs=_pairs(text),
        least=_bound(LEAST, text, 0.0),
        most=_bound(MOST, text, float("inf")),
        place=_place(text),
    )


@lru_cache(maxsize=65536)
def read_action(said: str) -> Deed:
    """An action in words. One word without a verb is a guess; several without one, or empty brackets, mean nothing."""
    text = _plain(said)
    tokens = _tokens(text)
    kinds, rest = _verb(tokens, DEEDS)
    if len(tokens) == 1:
        kinds, rest = kinds | {"guess"}, tokens
    if EMPTY.search(said):
        kinds = frozenset()
    words = frozenset(word for word in rest if word not in FILLERS)
    return Deed(kinds, words, _pairs(text), _prices(text), len(tokens) == 1 and tokens[0] in ALONE)


def _plain(text: str) -> str:
    """Lower case, apostrophes gone, "s h i r e" written together."""
    return LETTERS.sub(lambda match: match[0].replace(" ", ""), text.lower().replace("'", ""))


def _tokens(text: str) -> list[str]:
    """Stems, with synonyms made one; "$23.00" and "23" are both "#23"."""
    return [_token(raw) for raw in TOKEN.findall(text)]


@lru_cache(maxsize=65536)
def _token(raw: str) -> str:
    if number := re.fullmatch(r"\$?\s?(\d[\d,]*(?:\.\d+)?)", raw):
        return f"#{float(number[1].replace(',', '')):g}"
    return SAME.get(raw) or SAME.get(stem(raw), stem(raw))


def _verb(tokens: list[str], table: Table) -> tuple[frozenset[str], list[str]]:
    """The kinds of deed that the first known verb phrase can mean, and the tokens without it."""
    for start in range(len(tokens)):
        length, kinds = _phrase(tokens, start, table)
        if length:
            rest = tokens[:start] + tokens[start + length :]
            if not kinds:  # "keep looking": the next verb tells
                follows = next((i for i in range(start, len(rest)) if rest[i] not in FILLERS), start)
                return _verb(rest, table) if _phrase(rest, follows, table)[0] else (kinds, rest)
            return (_bare(rest, table) if kinds & GENERIC else None) or kinds, rest
    return frozenset(), tokens


def _phrase(tokens: list[str], start: int, table: Table) -> tuple[int, frozenset[str]]:
    """Length and kinds of the longest verb phrase that begins at `start`; length 0 where there is none."""
    for end in range(min(len(tokens), start + LONGEST), start, -1):
        kinds = table.get(tuple(tokens[start:end]))
        if kinds is not None:
            return end - start, kinds
    return 0, frozenset()


def _bare(rest: list[str], table: Table) -> frozenset[str]:
    """In "click the next page", the deed that is the object of a general verb, if nothing else is."""
    kinds, others = _verb(rest, table)
    return frozenset() if _naming(others) else kinds & BARE


def _naming(tokens: Sequence[str]) -> list[str]:
    return [word for word in tokens if word not in FILLERS and word not in VAGUE]


def _pairs(text: str) -> Pairs:
    return frozenset((_token(a), _token(b), _token(a + b)) for a, b in pairwise(TOKEN.findall(text)))


def _place(text: str) -> frozenset[str] | None:
    match = SEEKING.search(PURPOSE.sub("", text))
    return frozenset(_naming(_tokens(match["place"] or match["room"] or ""))) if match else None


def _prices(text: str) -> tuple[float, ...]:
    return tuple(float((a or b).replace(",", "")) for a, b in PRICE.findall(text))


def _unbounded(text: str) -> str:
    return LEAST.sub(" ", MOST.sub(" ", text))


def _bound(pattern: re.Pattern[str], text: str, without: float) -> float:
    match = pattern.search(text)
    return float(match[1] or match[2]) if match else without

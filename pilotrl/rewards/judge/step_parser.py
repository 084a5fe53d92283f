"""The parser of plan steps and actions: finds the kind of deed, the words that name the object, and bounds on a price."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from pilotrl.rewards.judge.lexicon import (
    ALONE,
    ATTRIBUTES,
    BARE,
    DEEDS,
    FILLERS,
    GENERIC,
    LEAST,
    LONGEST,
    MEANS,
    MOST,
    PHRASES,
    PURPOSE,
    SAME,
    SEEKING,
    TRUTH,
    VAGUE,
    stem,
)

Table = Mapping[tuple[str, ...], frozenset[str]]
Pairs = frozenset[tuple[str, str, str]]
"""Neighbouring words, and both written as one: "remote control" matches "remotecontrol"."""

TOKEN = re.compile(r"\$\s?\d[\d,]*(?:\.\d+)?|\d+(?:\.\d+)?(?![a-z\d])|[a-z0-9]+")
PRICE = re.compile(r"\$\s?(\d[\d,]*(?:\.\d+)?)|(\d+(?:\.\d+)?) dollars?\b")
LETTERS = re.compile(r"\b[a-z](?: [a-z]){3,}\b")
EMPTY = re.compile(r"\[\s*\]")


class Thing(NamedTuple):
    """What is made, taken or reached, apart from what it is made from."""

    names: frozenset[str]
    """Stems without numbers."""
    amounts: frozenset[str]
    """Numbers, as "#4"."""
    head: str
    """The last of the names, which says what kind of thing it is: "gate" of "oak fence gate"; empty without names."""
    means: frozenset[str]
    """Names and numbers of the ingredients."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a plan step asks for."""

    kinds: frozenset[str]
    """Kinds of deed that its verb can mean; empty if no verb is known."""
    words: frozenset[str]
    """Words that name the object: stems, and numbers as "#23"."""
    prices: frozenset[str]
    """Those of `words` that are amounts of money."""
    pairs: Pairs
    least: float
    most: float
    """Bounds on the price, in dollars."""
    thing: Thing
    """The object again, by parts."""
    place: frozenset[str] | None
    """Where the object to be looked for is, empty if the step does not say; None for a step that looks for nothing."""

    @property
    def vacuous(self) -> bool:
        """It says nothing: no known deed, and no object."""
        return not self.kinds and not self.words

    @property
    def nameless(self) -> bool:
        """It asks for a kind of deed that needs an object, and names none: any action of that kind follows it."""
        return bool(self.kinds) and not self.words and not self.kinds & BARE and self.most == math.inf


@dataclass(frozen=True, slots=True)
class Deed:
    """What an action does."""

    kinds: frozenset[str]
    """Kinds of deed; empty if the action was not understood."""
    words: frozenset[str]
    """Of what is made, without its ingredients."""
    thing: Thing
    counted: bool
    """It makes or takes a number of things: "get 3 oak log". Their name is a whole name: another word is another thing."""
    pairs: Pairs
    prices: tuple[float, ...]
    alone: bool
    """The action is always one word, such as `drop`, and cannot name an object."""


@lru_cache(maxsize=65536)
def read_step(step: str) -> Step:
    """Parse a plan step. Leaves out its purpose ("... to find X"), and names of attributes whose values are given."""
    text = plain(step)
    kinds, tokens = verb(stems(_unbounded(PURPOSE.sub("", text))), PHRASES)
    if not naming(tokens):  # "proceed to check the features": no purpose, but the deed itself
        kinds, tokens = verb(stems(_unbounded(text)), PHRASES)
    content = naming(tokens)
    values = [word for word in content if word not in ATTRIBUTES]
    if "answer" in kinds:
        values = [word for word in values if word[0] == "#" or word in TRUTH] or values
    return Step(
        kinds=kinds,
        words=frozenset(values or content),
        prices=frozenset(f"#{price:g}" for price in _prices(text)),
        pairs=_pairs(text),
        thing=_thing(kinds, tokens),
        least=_bound(LEAST, text, 0.0),
        most=_bound(MOST, text, float("inf")),
        place=_place(text),
    )


@lru_cache(maxsize=65536)
def read_action(said: str) -> Deed:
    """Parse an action in words. One word without a verb is a guess; several without one, or empty brackets, mean nothing."""
    text = plain(said)
    tokens = stems(text)
    kinds, rest = verb(tokens, DEEDS)
    if len(tokens) == 1:
        kinds, rest = kinds | {"guess"}, tokens
    if EMPTY.search(said):
        kinds = frozenset()
    words = frozenset(word for word in _made(kinds, rest)[0] if word not in FILLERS)
    counted = bool(kinds & {"craft", "take"}) and rest[:1] != [] and rest[0][0] == "#"
    alone = len(tokens) == 1 and tokens[0] in ALONE
    return Deed(kinds, words, _thing(kinds, rest), counted, _pairs(text), _prices(text), alone)


def _thing(kinds: frozenset[str], tokens: Sequence[str]) -> Thing:
    """The object of a deed, from the tokens beside its verb."""
    product, means = map(naming, _made(kinds, tokens))
    names = [word for word in product if word[0] != "#"]
    return Thing(frozenset(names), frozenset(product) - frozenset(names), names[-1] if names else "", frozenset(means))


def _made(kinds: frozenset[str], tokens: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Tokens of what is made, and those of what it is made from: "4 planks using 1 log", "a log into planks"."""
    if "craft" not in kinds:
        return tokens, ()
    if "into" in tokens:
        at = tokens.index("into")
        return tokens[at:], tokens[:at]
    at = next((i for i, token in enumerate(tokens) if token in MEANS), len(tokens))
    return tokens[:at], tokens[at:]


def plain(text: str) -> str:
    """Normalized text: lower case, no apostrophes, spelled-out words such as "s h i r e" joined."""
    return LETTERS.sub(lambda match: match[0].replace(" ", ""), text.lower().replace("'", ""))


def stems(text: str) -> list[str]:
    """Stemmed tokens, with synonyms mapped to one stem; "$23.00" and "23" are both "#23"."""
    return [_token(raw) for raw in TOKEN.findall(text)]


@lru_cache(maxsize=65536)
def _token(raw: str) -> str:
    if number := re.fullmatch(r"\$?\s?(\d[\d,]*(?:\.\d+)?)", raw):
        return f"#{float(number[1].replace(',', '')):g}"
    return SAME.get(raw) or SAME.get(stem(raw), stem(raw))


def verb(tokens: list[str], table: Table) -> tuple[frozenset[str], list[str]]:
    """The kinds of deed that the first known verb phrase can mean, and the tokens without it."""
    for start in range(len(tokens)):
        length, kinds = _phrase(tokens, start, table)
        if length:
            rest = tokens[:start] + tokens[start + length :]
            if not kinds:  # "keep looking": the next verb decides
                follows = next((i for i in range(start, len(rest)) if rest[i] not in FILLERS), start)
                return verb(rest, table) if _phrase(rest, follows, table)[0] else (kinds, rest)
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
    """The deed that is the only object of a general verb, as in "click the next page"; empty if there is none."""
    kinds, others = verb(rest, table)
    return frozenset() if naming(others) else kinds & BARE


def naming(tokens: Sequence[str]) -> list[str]:
    """The tokens that can name an object."""
    return [word for word in tokens if word not in FILLERS and word not in VAGUE]


def _pairs(text: str) -> Pairs:
    return frozenset((_token(a), _token(b), _token(a + b)) for a, b in pairwise(TOKEN.findall(text)))


def _place(text: str) -> frozenset[str] | None:
    match = SEEKING.search(PURPOSE.sub("", text))
    return frozenset(naming(stems(match["place"] or match["room"] or ""))) if match else None


def _prices(text: str) -> tuple[float, ...]:
    return tuple(float((a or b).replace(",", "")) for a, b in PRICE.findall(text))


def _unbounded(text: str) -> str:
    return LEAST.sub(" ", MOST.sub(" ", text))


def _bound(pattern: re.Pattern[str], text: str, without: float) -> float:
    match = pattern.search(text)
    return float(match[1] or match[2]) if match else without

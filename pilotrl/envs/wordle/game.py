"""The Wordle simulator: the marks of a guess by either set of rules, and the words that they leave possible."""

from __future__ import annotations

from functools import cache, lru_cache
from hashlib import sha256
from importlib.resources import files
from random import Random
from typing import Protocol

LMRL = (
    "panic solar shire proxy point robot prick wince crimp knoll sugar whack mount perky could wrung light those moist shard "
    "pleat aloft skill elder frame humor pause ulcer ultra robin cynic aroma caulk shake dodge swill tacit other thorn "
    "trove"
)
LMRL_WORDS = tuple(LMRL.split())
"""The vocabulary of AgentGym's server, in its order, on which random draws depend."""
Knowledge = dict[str, str]
"""Belief state of LMRL-Gym's rules: letter -> a mark for each position, g here, n not here, . possible."""


class Game(Protocol):
    """The protocol of a simulator of one episode."""

    solved: bool

    def guess(self, word: str) -> str:
        """Five marks: g in place, y elsewhere in the word, b not in it. The guess is a word of the vocabulary."""
        ...


class Standard:
    """The usual rules: the word stays the same, and a letter is marked as often as the word has it."""

    def __init__(self, target: str) -> None:
        self.target, self.solved = target, False

    def guess(self, word: str) -> str:
        self.solved = word == self.target
        return marks(word, self.target)


class Lmrl:
    """LMRL-Gym's rules: each guess is compared with a word drawn from those still possible, and marks ignore counts."""

    def __init__(self, words: tuple[str, ...], seed: int) -> None:
        self.words, self.left, self.known = words, words, dict[str, str]()
        self.guessed: set[str] = set()
        self.draw, self.solved = Random(seed), False

    def guess(self, word: str) -> str:
        target = self.draw.choice(self.left)
        loose = "".join("g" if a == b else "y" if a in target else "b" for a, b in zip(word, target, strict=True))
        self.known = learned(self.known, word, loose)
        self.left = tuple(other for other in self.words if fits(self.known, other))
        self.guessed.add(word)
        self.solved = len(self.left) == 1 and self.left[0] in self.guessed
        return "".join(_mark(self.known[letter], i) for i, letter in enumerate(word))


@lru_cache(maxsize=1 << 18)
def marks(guess: str, target: str) -> str:
    """Marks by the usual rules: first g; then each y uses up one of the remaining letters."""
    left = [b for a, b in zip(guess, target, strict=True) if a != b]
    said = ""
    for a, b in zip(guess, target, strict=True):
        if a == b:
            said += "g"
        elif a in left:
            left.remove(a)
            said += "y"
        else:
            said += "b"
    return said


def learned(known: Knowledge, guess: str, said: str) -> Knowledge:
    """The belief state after a guess, as in LMRL-Gym; a letter that is not in the word is n at every position."""
    known = dict(known)
    for i, (letter, mark) in enumerate(zip(guess, said, strict=True)):
        places = known.get(letter, ".....")
        known[letter] = "nnnnn" if mark == "b" else places[:i] + ("g" if mark == "g" else "n") + places[i + 1 :]
    return known


def fits(known: Knowledge, word: str) -> bool:
    """Whether this may be the word."""
    return all(
        letter not in word
        if places == "nnnnn"
        else letter in word
        and all(place == "." or (place == "g") == (word[i] == letter) for i, place in enumerate(places))
        for letter, places in known.items()
    )


def _mark(places: str, i: int) -> str:
    return "g" if places[i] == "g" else "b" if places == "nnnnn" else "y"


def possible(rules: str, words: tuple[str, ...], history: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """The words that guesses and marks leave."""
    if rules == "standard":
        return tuple(word for word in words if all(marks(guess, word) == said for guess, said in history))
    known: Knowledge = {}
    for guess, said in history:
        known = learned(known, guess, said)
    return tuple(word for word in words if fits(known, word))


@cache
def vocabulary() -> tuple[str, ...]:
    """Our words in a fixed random order, so that the first ones are a fair sample."""
    lines = (files("pilotrl.envs.wordle") / "words.txt").read_text("utf-8").splitlines()
    words = [word for line in lines if line[0] != "#" for word in line.split()]
    return tuple(sorted(words, key=lambda word: sha256(word.encode()).digest()))

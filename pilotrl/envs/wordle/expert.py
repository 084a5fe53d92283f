"""The scripted expert of Wordle: knows the vocabulary and the marks of its guesses, and never the word."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from pilotrl.envs.wordle.game import marks, possible

LOOKED_AT = 40
"""Maximum number of possible words that are compared as the next guess."""
History = tuple[tuple[str, str], ...]
"""Guesses and their marks."""


class WordleExpert:
    """The expert: guesses a possible word that leaves the fewest others on average."""

    def __init__(self, rules: str, words: tuple[str, ...], history: History, solved: bool) -> None:
        self.rules, self.words, self.history, self.solved = rules, words, history, solved

    def plan(self) -> list[str]:
        """The next guess; what comes after it depends on the answer."""
        if self.solved:
            return []
        first = f"guess {best(self.rules, self.words, self.history)}"
        return [first] if len(left(self.rules, self.words, self.history)) == 1 else [first, "guess a matching word"]

    def loose(self) -> list[str]:
        """The same steps without the word."""
        fits = "try one that fits all marks"
        return [fits if step or self.history else "try the word that tells most" for step in range(len(self.plan()))]

    def equal(self, action: str) -> str:
        """Any word that fits all marks; the first guess has none yet."""
        word = action.replace(" ", "")
        return f"guess {word}" if self.history and word in left(self.rules, self.words, self.history) else ""

    def action(self) -> str:
        """The next guess, letter by letter. Raises RuntimeError once the word is found."""
        if self.solved:
            raise RuntimeError("the episode has ended: there is no next action")
        return " ".join(best(self.rules, self.words, self.history))

    def thought(self) -> str:
        """Letters of the word, with places where those are known, and what the last guess ruled out: `has r 2, e; not i s`."""
        if not self.history:
            return "nothing known of the word yet"
        said = [
            (i, *pair) for guess, marked in self.history for i, pair in enumerate(zip(guess, marked, strict=True), 1)
        ]
        placed = {i: letter for i, letter, mark in said if mark == "g"}
        inside = list(dict.fromkeys(letter for _, letter, mark in said if mark != "b"))
        has = [f"{placed[i]} {i}" for i in sorted(placed)] + [x for x in inside if x not in placed.values()]
        out = [letter for letter in dict.fromkeys(self.history[-1][0]) if letter not in inside]
        return f"has {', '.join(has) or 'nothing yet'}" + (f"; not {' '.join(out)}" if out else "")

    def detour(self) -> None:
        """None: every action counts here."""


@lru_cache(maxsize=1 << 16)
def left(rules: str, words: tuple[str, ...], history: History) -> tuple[str, ...]:
    """The words that are still possible."""
    if rules == "standard" and history:
        return possible(rules, left(rules, words, history[:-1]), history[-1:])
    return possible(rules, words, history)


@lru_cache(maxsize=1 << 16)
def best(rules: str, words: tuple[str, ...], history: History) -> str:
    """The guess that leaves the fewest words on average; of at most `LOOKED_AT` possible ones."""
    known = left(rules, words, history)
    every = -(-len(known) // LOOKED_AT)
    return min(known[::every], key=lambda guess: (_remaining(guess, known), guess))


def _remaining(guess: str, known: tuple[str, ...]) -> int:
    """Sum of squares of the numbers of words that each answer would leave."""
    return sum(n * n for n in Counter(marks(guess, word) for word in known).values())

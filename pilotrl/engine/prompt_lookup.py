"""Prompt-lookup drafts for speculative decoding: the tokens that followed the same n-gram before, in any episode."""

from __future__ import annotations

NGRAMS = (4, 2)
"""Lengths of the n-grams that are looked up, in order of preference."""


class PromptLookup:
    """The token that last followed each n-gram. A wrong draft costs time, and does not change what is sampled."""

    def __init__(self) -> None:
        self.after: dict[tuple[int, ...], int] = {}

    def read(self, text: list[int], start: int) -> None:
        """Index a text, of which the tokens from `start` on are new."""
        for n in NGRAMS:
            for i in range(max(start, n), len(text)):
                self.after[tuple(text[i - n : i])] = text[i]

    def guess(self, text: list[int], count: int) -> list[int]:
        """A draft of at most `count` tokens; shorter where no n-gram is known."""
        tail, guesses = text[-max(NGRAMS) :], list[int]()
        while len(guesses) < count:
            found = next((t for n in NGRAMS if (t := self.after.get(tuple(tail[-n:]))) is not None), None)
            if found is None:
                break
            guesses.append(found)
            tail.append(found)
        return guesses

    def forget(self) -> None:
        self.after.clear()
